package private

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Only a directory that nobody else can change or replace, by whatever name, is
// private.
func TestMakeDir(t *testing.T) {
	const nobody = 65534
	tests := []struct {
		name    string
		prepare func(top string) error // top/way/run is what is asked for
		ok      bool
	}{
		{"nothing there", func(top string) error { return os.RemoveAll(top + "/way") }, true},
		{"root's", func(string) error { return nil }, true},
		{"readable for all", func(top string) error { return os.Chmod(top+"/way/run", 0o755) }, true},
		{"writable for its group", func(top string) error { return os.Chmod(top+"/way/run", 0o770) }, false},
		{"writable for others", func(top string) error { return os.Chmod(top+"/way/run", 0o702) }, false},
		{"writable for all, but sticky", func(top string) error { return os.Chmod(top+"/way/run", 0o777|os.ModeSticky) }, false},
		{"somebody else's", func(top string) error { return os.Chown(top+"/way/run", nobody, -1) }, false},
		{"a link", func(top string) error { return link(top+"/way/run", top+"/real") }, false},
		{"a file", func(top string) error {
			return errors.Join(os.Remove(top+"/way/run"), os.WriteFile(top+"/way/run", nil, 0o600))
		}, false},
		{"below one that all can write", func(top string) error { return os.Chmod(top+"/way", 0o777) }, false},
		{"below one that all can write, but sticky", func(top string) error { return os.Chmod(top+"/way", 0o777|os.ModeSticky) }, true},
		{"below somebody else's", func(top string) error { return os.Chown(top+"/way", nobody, -1) }, false},
		{"below a link", func(top string) error { return link(top+"/way", "real") }, true},
		{"below somebody else's link", func(top string) error {
			return errors.Join(link(top+"/way", "real"), os.Lchown(top+"/way", nobody, -1))
		}, false},
		{"below a link into one that all can write", func(top string) error {
			return errors.Join(os.Mkdir(top+"/loose", 0o700), link(top+"/way", top+"/loose/real"), os.Chmod(top+"/loose", 0o777))
		}, false},
		{"below a link to a link into one that all can write", func(top string) error {
			return errors.Join(os.Mkdir(top+"/loose", 0o700), link(top+"/way", "real"), link(top+"/real", top+"/loose/real"), os.Chmod(top+"/loose", 0o777))
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			top := t.TempDir()
			if err := errors.Join(os.MkdirAll(top+"/way/run", 0o700), tt.prepare(top)); err != nil {
				t.Fatal(err)
			}
			err := MakeDir(filepath.Join(top, "way", "run"))
			if (err == nil) != tt.ok {
				t.Errorf("MakeDir = %v, want an error: %v", err, !tt.ok)
			}
			if fi, err := os.Stat(top + "/way/run"); tt.name == "nothing there" && (err != nil || fi.Mode().Perm() != 0o700) {
				t.Errorf("made with %v, %v; want mode 0700", fi, err)
			}
		})
	}
}

// link moves a directory, and puts a link in its place.
func link(name, target string) error {
	to := target
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(name), to)
	}
	return errors.Join(os.Rename(name, to), os.Symlink(target, name))
}
