package confdir

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/podwall/podwall/install/chain"
	"github.com/podwall/podwall/install/change"
)

// content is what a file of the installer's own holds; nil if there is none.
func content(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil // Apply compares again, and says what is wrong with the file
	}
	return b
}

// restore returns the changes that take podwall out of a list, and put back what
// it was before where more than the entry was changed.
func (d Dir) restore(path string, text []byte, l *chain.List) []change.Change {
	without, err := l.Without()
	if err != nil {
		return nil // there is only podwall: nobody could use what is left
	}
	base := strings.TrimSuffix(path, list) // of a list that was made from a file
	if old := content(base + saved); old != nil && isSingle(base) && made(old, l.Version, without) {
		return []change.Change{
			{Path: base + saved, Before: old, MoveTo: base},
			{Path: path, Before: text},
		}
	}
	var out []change.Change
	old := content(path + saved)
	if low, ok := lower(old, l.Version, without); ok {
		without = low
	}
	if !bytes.Equal(without, text) {
		out = append(out, change.Change{Path: path, Before: text, After: without})
	}
	if old != nil {
		out = append(out, change.Change{Path: path + saved, Before: old})
	}
	return out
}

// forget returns the changes that remove what was made of a file which is there
// again.
func (d Dir) forget(path string, text []byte) []change.Change {
	var out []change.Change
	if there := content(path + list); there != nil {
		if l, err := chain.Parse(there); err == nil && l.Has() {
			if without, err := l.Without(); err == nil && !made(text, l.Version, without) && !made(content(path+saved), l.Version, without) {
				return nil // somebody made it his own
			}
			out = append(out, change.Change{Path: path + list, Before: there})
		}
	}
	if old := content(path + saved); old != nil {
		out = append(out, change.Change{Path: path + saved, Before: old})
	}
	return out
}

// isSingle reports whether path is the name of a file with a single plugin.
func isSingle(path string) bool {
	ext := filepath.Ext(path)
	return ext == ".conf" || ext == ".json"
}

// made reports whether without is what the installer made of a single plugin.
func made(single []byte, version string, without []byte) bool {
	text, err := chain.FromConf(single)
	if err != nil {
		return false
	}
	_, ok := lower(text, version, without)
	return ok
}

// lower returns old without podwall, if without is the same with another version.
func lower(old []byte, version string, without []byte) (low []byte, ok bool) {
	l, err := chain.Parse(old)
	if err != nil {
		return nil, false
	}
	if low, err = l.Without(); err != nil {
		return nil, false
	}
	if l, err = chain.Parse(low); err != nil {
		return nil, false
	}
	return low, bytes.Equal(low, without) || bytes.Equal(l.WithVersion(version), without)
}

// beside is what a network's drop-in directory holds and should hold.
type beside struct {
	types           []string // the plugins that are there, in their order
	install, remove []change.Change
}

// dropIn is the file that podwall is in. Its name comes late: the order of the
// names is that of the plugins.
const dropIn = "zz-podwall.conf"

// beside reads the drop-in directory of a network.
func (d Dir) beside(l *chain.List) beside {
	var b beside
	dir := filepath.Join(d.Path, l.Name)
	ours := filepath.Join(dir, dropIn)
	if !l.Inlined {
		for _, path := range dropIns(dir) {
			b.types = append(b.types, chain.TypeOf(content(path)))
		}
	}
	want := append(bytes.Clone(d.Entry), '\n')
	there := content(ours)
	if !bytes.Equal(there, want) {
		b.install = []change.Change{{Path: ours, Before: there, After: want, WithDir: true}}
	}
	if there != nil {
		b.remove = []change.Change{{Path: ours, Before: there, WithDir: true}}
	}
	return b
}

// dropInOnly is about a network all of whose plugins are in its drop-in directory.
func (d Dir) dropInOnly(f *File) {
	l := &chain.List{Name: f.Network}
	b := d.beside(l)
	f.Plugins, f.Remove = b.types, b.remove
	switch {
	case len(b.types) == 0 || exempt(b.types):
		f.State, f.Problem = Unusable, "no plugins, neither here nor in "+filepath.Join(d.Path, f.Network)
	case speaks(f.CNIVersion) != nil:
		f.Problem = speaks(f.CNIVersion).Error()
	default:
		f.Install = b.install // there is no other place to put it
		d.settle(f, nil)
	}
}

// dropIns lists the files in a drop-in directory that libcni reads.
func dropIns(dir string) []string {
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // most networks have none
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".conf" && e.Type()&fs.ModeDir == 0 {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}
