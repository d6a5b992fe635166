// Package confdir reads a directory of CNI network configurations as a container
// runtime does, and says which changes put podwall into each that a runtime may
// select, and which take it out again.
//
//	10-flannel.conflist      chained: podwall is the last plugin
//	20-macvlan.conf          becomes 20-macvlan.conf.conflist, and is kept as
//	                         20-macvlan.conf.podwall-saved, which no runtime reads
//	00-multus.conf           not chained itself: the networks that it delegates to are
//	99-loopback.conf         exempt: it gives a pod no way out
//	mynet/zz-podwall.conf    with DropIn: libcni 1.3 and newer add it to network mynet
//
// # Contract
//
// Look only reads, and its result depends on nothing but the files and the Dir's
// fields. The changes are to be applied in their order: after each of them, and so
// wherever a process is killed, every network is there, and one that was chained
// before is chained still. When they have all been applied, Look finds none. The
// changes that remove podwall give back every byte that installing it replaced,
// unless somebody else changed the file since.
//
// A file that podwall can't be chained in is left alone, with a Problem that says
// why and what to do.
package confdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podwall/podwall/install/change"
)

// A State is what the installer makes of a file. The zero State is the one that
// somebody has to do something about.
type State uint8

const (
	Unprotected State = iota // a runtime may select it, and its pods have no firewall
	Chained                  // podwall is the last plugin
	Delegating               // of a meta plugin, whose networks are chained
	Exempt                   // a pod on it reaches nothing but itself
	Unusable                 // no runtime can load it
)

var stateNames = []string{"unprotected", "chained", "delegating", "exempt", "unusable"}

// String is the state's name in lower case.
func (s State) String() string { return stateNames[s] }

// MarshalText writes the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A File is one file that runtimes take for a network's configuration.
type File struct {
	Path       string   `json:"file"`
	Network    string   `json:"network,omitempty"`
	CNIVersion string   `json:"cniVersion,omitempty"`
	Plugins    []string `json:"plugins,omitempty"`
	State      State    `json:"state"`
	// Selected says that a runtime takes this network if nobody tells it otherwise:
	// the first that it can load.
	Selected bool `json:"selected"`
	// Problem says what is wrong and what to do about it.
	Problem string `json:"problem,omitempty"`

	// Install are the changes that chain podwall, Remove those that take it out.
	Install []change.Change `json:"-"`
	Remove  []change.Change `json:"-"`

	cluster string // of a meta plugin: the network that it names
}

// Stuck reports whether pods on the network have no firewall and Install won't
// change that.
func (f File) Stuck() bool { return f.State == Unprotected && len(f.Install) == 0 }

// A Dir is a directory of configurations and what should become of it.
type Dir struct {
	Path string
	// Entry is podwall's entry in a list of plugins, a JSON object.
	Entry []byte
	// DropIn puts the entry beside the network's file, into its drop-in directory,
	// where the network has one. Runtimes with a libcni before 1.3 don't look there.
	DropIn bool
	// ListsOnly leaves the files of single plugins alone: something refers to them by
	// their names.
	ListsOnly bool
	// CNIVersion is the least that a network should have; empty leaves it as it is.
	CNIVersion string
	// Speak says why some plugins don't speak a version. It is asked before a
	// network gets another CNIVersion.
	Speak func(plugins []string, version string) error
}

const (
	saved   = ".podwall-saved" // ends the name of a file that was replaced
	longest = 1 << 20          // bytes in a file
)

// Look reads the directory. One that does not exist holds no files.
func (d Dir) Look() ([]File, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read network configurations: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			names = append(names, e.Name())
		}
	}
	var files []File
	for _, name := range names {
		// What was made of a file is looked at together with it.
		if base := strings.TrimSuffix(name, list); base == name || !slices.Contains(names, base) {
			if f, ok := d.file(name); ok {
				files = append(files, f)
			}
		}
	}
	d.follow(files)
	twice(files)
	first := slices.IndexFunc(files, func(f File) bool { return f.State != Unusable && f.State != Exempt })
	if first >= 0 {
		files[first].Selected = true
	}
	return files, nil
}

// list ends the name of a list of plugins. It is added to the name of a single
// plugin's file when that becomes a list, so that the order stays.
const list = ".conflist"

// file reads one file. It reports false if the file is gone.
func (d Dir) file(name string) (f File, ok bool) {
	f.Path = filepath.Join(d.Path, name)
	fi, err := os.Lstat(f.Path)
	if err != nil {
		return f, false
	}
	path := f.Path
	if fi.Mode()&fs.ModeSymlink != 0 { // a change must not put a file in the link's place
		path, err = filepath.EvalSymlinks(f.Path)
	}
	var text []byte
	if err == nil {
		text, err = read(path)
	}
	if err != nil {
		f.State, f.Problem = Unusable, err.Error()
		return f, true
	}
	d.inspect(&f, path, text)
	return f, true
}

// read returns the content of a file that is no link.
func read(path string) ([]byte, error) {
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("not a regular file: %v", fi.Mode())
	case fi.Size() > longest:
		return nil, fmt.Errorf("%d bytes: want at most %d", fi.Size(), longest)
	}
	return os.ReadFile(path)
}

// follow settles the meta plugins whose network is in another file.
func (d Dir) follow(files []File) {
	for i := range files {
		f := &files[i]
		base := filepath.Base(f.cluster)
		if f.cluster == "" || base == filepath.Base(d.Path) || slices.ContainsFunc(files, func(other File) bool {
			return other.cluster == "" && (filepath.Base(other.Path) == base || other.Network == f.cluster)
		}) {
			continue
		}
		f.State = Unprotected
		f.Problem = fmt.Sprintf("field clusterNetwork: %q is none of the networks here: chain podwall as its last plugin where it is defined", f.cluster)
	}
}

// twice reports lists that the installer made and that may have been replaced:
// their network is in another file too.
func twice(files []File) {
	for i := range files {
		f := &files[i]
		single := strings.TrimSuffix(f.Path, list)
		if f.Problem != "" || !isSingle(single) || single == f.Path {
			continue
		}
		j := slices.IndexFunc(files, func(other File) bool { return other.Network == f.Network && other.Path != f.Path })
		if j >= 0 {
			f.Problem = fmt.Sprintf("network %q is in %s too: if that replaces %s, remove this file and %s", f.Network, files[j].Path, single, single+saved)
		}
	}
}
