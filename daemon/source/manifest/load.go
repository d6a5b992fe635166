package manifest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/podwall/podwall/daemon/source"
)

// Load returns what is at path now, a directory or one file, for somebody who
// would not go on with half of it: a file that is not all manifests is an error.
func Load(path string) (source.World, error) {
	st, err := os.Stat(path)
	if err != nil {
		return source.World{}, fmt.Errorf("read manifests: %w", err)
	}
	if !st.IsDir() {
		data, err := content(path)
		if err != nil {
			return source.World{}, fmt.Errorf("read manifests: %s: %w", path, err)
		}
		return Parse(filepath.Base(path), data)
	}
	t := newTree(path, nil)
	t.scan()
	if t.dirFault != "" {
		return source.World{}, fmt.Errorf("read manifests: %s: %s", path, t.dirFault)
	}
	return t.whole()
}

// Parse is Load for what a file of that name holds.
func Parse(name string, data []byte) (source.World, error) {
	t := newTree("", nil)
	t.seen = true
	t.files[name] = &file{}
	t.files[name].take(parse(name, data))
	return t.whole()
}

// whole is the world, or what of the files is no manifest.
func (t *tree) whole() (source.World, error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		for _, fault := range t.files[name].faults {
			errs = append(errs, fmt.Errorf("read manifests: %s: %s", name, fault))
		}
	}
	return t.world(nil), errors.Join(errs...)
}
