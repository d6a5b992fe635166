// Package bundle writes what a bug report needs into one file, without secrets.
//
//	podwall-bundle/README         what is here, and what was left out
//	podwall-bundle/doctor.json    the examination
//	podwall-bundle/status.json …  what the daemon says
//	podwall-bundle/inspect/…      each pod's firewall
//	podwall-bundle/nft/…          the same, as the kernel has it
//	podwall-bundle/config/…       podwalld's file and the networks' files
//	podwall-bundle/log            the end of podwalld's log
//
// # Contract
//
// A file gets in by being listed here: no directory is taken whole, and none of a
// kubeconfig, a service account's token, a manifest or an environment is ever
// read. What gets in is cleaned first: values whose names say that they are secret,
// and texts that look like keys, tokens and passwords wherever they stand. Names of
// pods, their labels and addresses are in it, and the README says so.
//
// What can't be had is listed in the README with the reason, and no error.
package bundle
