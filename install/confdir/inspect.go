package confdir

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"
	cni "github.com/containernetworking/cni/pkg/version"

	"github.com/podwall/podwall/install/chain"
	"github.com/podwall/podwall/install/change"
)

// spoken are the versions of CNI that podwall speaks.
var spoken = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// oldest is what a configuration without a version means.
const oldest = "0.1.0"

// inspect fills in f from the text at path.
func (d Dir) inspect(f *File, path string, text []byte) {
	if len(bytes.TrimSpace(text)) == 0 {
		f.State, f.Problem = Unusable, "empty: whoever writes it has not finished, or failed"
		return
	}
	m, err := chain.ParseMeta(text)
	switch {
	case m != nil:
		d.meta(f, path, text, m, err)
	case filepath.Ext(f.Path) == list:
		d.list(f, path, text)
	default:
		d.single(f, text)
	}
}

// meta is about a plugin that calls others. err is about its delegates.
func (d Dir) meta(f *File, path string, text []byte, m *chain.Meta, err error) {
	f.Network, f.CNIVersion, f.Plugins, f.State = m.Name, m.Version, []string{m.Type}, Delegating
	if without, err := m.Without(); err == nil && !bytes.Equal(without, text) {
		f.Remove = []change.Change{{Path: path, Before: text, After: without}}
	}
	if err == nil && len(m.Delegates) == 0 {
		f.cluster = m.Cluster
		if f.cluster == "" {
			f.State, f.Problem = Unprotected, "neither delegates nor clusterNetwork: podwall can't tell whose pods these are"
		}
		return
	}
	for i, l := range m.Delegates {
		if err == nil {
			if err = speaks(l.Version); err != nil {
				err = fmt.Errorf("field delegates[%d]: %w", i, err)
			}
		}
	}
	var with []byte
	if err == nil {
		with, err = m.With(d.Entry)
	}
	switch {
	case errors.Is(err, chain.ErrNoPlugins):
		f.State, f.Problem = Unprotected, say(err)+": make the delegate a list, {\"name\": …, \"plugins\": […]}"
	case err != nil:
		f.State, f.Problem = Unprotected, say(err)
	case !bytes.Equal(with, text):
		f.State, f.Install = Unprotected, []change.Change{{Path: path, Before: text, After: with}}
	}
}

// list is about a conflist.
func (d Dir) list(f *File, path string, text []byte) {
	l, err := chain.Parse(text)
	if l != nil {
		f.Network, f.CNIVersion, f.Plugins = l.Name, l.Version, l.Types
	}
	if err == nil || errors.Is(err, chain.ErrNoPlugins) {
		err = cmp.Or(named(f.Network), err)
	}
	switch {
	case errors.Is(err, chain.ErrNoPlugins):
		d.dropInOnly(f)
		return
	case err != nil:
		f.State, f.Problem = Unusable, err.Error()
		return
	case exempt(l.Types):
		f.State = Exempt
		return
	}
	d.chain(f, path, text, l)
}

// named returns an error unless a network may have this name.
func named(network string) error {
	if e := utils.ValidateNetworkName(network); e != nil {
		return fmt.Errorf("field name: %q: %s", network, e.Msg)
	}
	return nil
}

// chain plans what becomes of a list that podwall belongs in.
func (d Dir) chain(f *File, path string, text []byte, l *chain.List) {
	beside := d.beside(l)
	f.Plugins = append(slices.Clip(f.Plugins), beside.types...)
	f.Remove = append(d.restore(path, text, l), beside.remove...)
	inDir := d.DropIn && !l.Inlined && !isSingle(strings.TrimSuffix(path, list))
	edit := func() ([]byte, error) { return l.With(d.Entry) }
	if inDir {
		edit = l.Without
	}
	edited, err := edit()
	if err != nil {
		f.Problem = say(err)
		return
	}
	want, why, err := d.raise(edited)
	if err != nil {
		f.Problem = say(err)
		return
	}
	// What is new comes first, so that no pod starts between the two without.
	if inDir {
		f.Install = beside.install
	}
	if !bytes.Equal(want, edited) {
		f.Install = append(f.Install, change.Change{Path: path + saved, Before: content(path + saved), After: text, Like: path})
	}
	if !bytes.Equal(want, text) {
		f.Install = append(f.Install, change.Change{Path: path, Before: text, After: want})
	}
	if !inDir {
		f.Install = append(f.Install, beside.remove...)
	}
	d.settle(f, why)
}

// settle says what the state of a list is, now that its changes are known. why is
// a remark, or nil.
func (d Dir) settle(f *File, why error) {
	if why != nil {
		f.Problem = say(why)
	}
	if len(f.Install) > 0 {
		return
	}
	f.State = Chained
	if last := f.Plugins[len(f.Plugins)-1]; last != chain.Plugin {
		f.Problem = fmt.Sprintf("%s comes after podwall, from the drop-in directory %s: what it does to packets podwall does not see", last, filepath.Join(d.Path, f.Network))
	}
}

// single is about a file with one plugin. A link to it is moved like a file.
func (d Dir) single(f *File, text []byte) {
	path := f.Path
	made, err := chain.FromConf(text)
	if _, e := chain.Parse(text); err != nil && e == nil {
		err = fmt.Errorf("a list of plugins, where runtimes look for a single one: rename it to %s", strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))+list)
	}
	if err != nil {
		f.State, f.Problem = Unusable, err.Error()
		return
	}
	l, err := chain.Parse(made)
	if err != nil {
		f.State, f.Problem = Unusable, err.Error()
		return
	}
	f.Network, f.CNIVersion, f.Plugins = l.Name, l.Version, l.Types
	if err := named(l.Name); err != nil {
		f.State, f.Problem = Unusable, err.Error()
		return
	}
	f.Remove = d.forget(path, text)
	if exempt(l.Types) {
		f.State = Exempt
		return
	}
	if d.ListsOnly {
		f.Problem = "a single plugin, and only lists are to be changed: make it a list with podwall as its last plugin, and name that wherever this is named"
		return
	}
	want, err := l.With(d.Entry)
	if err == nil {
		want, _, err = d.raise(want) // why is said when the list is there
	}
	if err != nil {
		f.Problem = say(err)
		return
	}
	// The list sorts right after the file, so it counts when the file is gone.
	if there := content(path + list); !bytes.Equal(there, want) {
		f.Install = append(f.Install, change.Change{Path: path + list, Before: there, After: want, Like: path})
	}
	f.Install = append(f.Install, change.Change{Path: path, Before: text, MoveTo: path + saved})
}

// exempt reports whether plugins lead nowhere.
func exempt(types []string) bool {
	return !slices.ContainsFunc(types, func(t string) bool { return t != "loopback" })
}

// speaks returns an error unless podwall speaks a version.
func speaks(version string) error {
	if slices.Contains(spoken, version) {
		return nil
	}
	return fmt.Errorf("cniVersion %q: podwall speaks %s", version, strings.Join(spoken, ", "))
}

// raise returns the text with d.CNIVersion, if that is higher than its own and
// every plugin speaks it. Where one does not, the text stays if podwall speaks the
// version that it has: then why is a remark, and not an error.
func (d Dir) raise(text []byte) (out []byte, why, err error) {
	l, err := chain.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	if d.CNIVersion != "" {
		higher, err := cni.GreaterThan(d.CNIVersion, cmp.Or(l.Version, oldest))
		if err != nil {
			return nil, nil, fmt.Errorf("field cniVersion: %w", err)
		}
		if higher {
			if why = d.Speak(l.Types, d.CNIVersion); why == nil {
				return l.WithVersion(d.CNIVersion), nil, nil
			}
			why = fmt.Errorf("cniVersion stays %q: %w", l.Version, why)
		}
	}
	switch err := speaks(l.Version); {
	case err != nil && why != nil:
		return nil, nil, errors.Join(err, why)
	case err != nil:
		return nil, nil, fmt.Errorf("%w; if this node's runtime and all plugins of the list speak a newer one too, raise it with --cni-version", err)
	}
	return text, why, nil
}

// say is an error on one line.
func say(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
