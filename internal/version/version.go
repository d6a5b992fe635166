// Package version is the version of the binaries.
//
// # Contract
//
// The linker writes it (-ldflags -X) and nothing changes it afterwards.
package version

// Version is what git describe said when the binary was built, or "dev" where
// nobody asked it.
var Version = "dev"
