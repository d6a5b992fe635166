package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt maps its file and believes it. A file that is cut short or has a wrong
// offset makes it read outside the mapping, partly on goroutines of its own,
// where no recover helps: the process dies. So fsck reads the file first, with
// bounds, and demands all that bbolt takes for granted:
//
//	page 0, 1   meta: two copies, written in turn; the valid one with the
//	            higher transaction counts
//	page 2…     branch and leaf pages of one tree for each bucket
//
//	page        id u64, flags u16, count u16, overflow u32, then the elements
//	branch      pos u32, ksize u32, page u64                 pos counts from the
//	leaf        flags u32, pos u32, ksize u32, vsize u32     element's own start
//	bucket      root page u64, sequence u64; root 0: a page follows in place
//
// Numbers are in the byte order of the machine. What the pages' contents mean
// is not looked at here.

const (
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 56         // without the checksum
	noFreelist  = ^uint64(0) // the free list is not in the file: NoFreelistSync
	pageHeader  = 16
	elementSize = 16
	maxPageSize = 1024 << 14

	branchPage = 0x01
	leafPage   = 0x02

	bucketElement = 0x01
)

// A meta is one meta page.
type meta struct {
	pageSize uint64
	root     uint64
	freelist uint64
	limit    uint64 // pages from here on don't exist
	tx       uint64
}

// A fsckResult is what a sound file tells.
type fsckResult struct {
	tx      uint64 // number of the last transaction; bbolt makes a new file with 1
	oneMeta bool   // the other copy is damaged: that transaction may not be the last
}

// fsck checks the structure of the bbolt file f of the given size.
func fsck(f io.ReaderAt, size int64) (fsckResult, error) {
	m, one, err := readMeta(f)
	if err != nil {
		return fsckResult{}, err
	}
	switch {
	case m.limit > uint64(size)/m.pageSize:
		return fsckResult{}, damaged("%d bytes are left of %d pages of %d bytes", size, m.limit, m.pageSize)
	case m.freelist != noFreelist:
		return fsckResult{}, damaged("a free list, which this program does not write")
	}
	w := walker{f: f, pageSize: m.pageSize, limit: m.limit, seen: map[uint64]bool{}}
	if err := w.tree(m.root, nil, nil); err != nil {
		return fsckResult{}, err
	}
	return fsckResult{tx: m.tx, oneMeta: one}, nil
}

// readMeta returns the meta page that counts, and whether it is the only one
// that is sound.
func readMeta(f io.ReaderAt) (meta, bool, error) {
	m0, err0 := metaAt(f, 0)
	second := m0.pageSize
	if err0 != nil {
		second = uint64(os.Getpagesize())
	}
	m1, err1 := metaAt(f, int64(second))
	switch {
	case err0 == nil && err1 == nil && m0.tx > m1.tx:
		return m0, false, nil
	case err0 == nil && err1 == nil:
		return m1, false, nil
	case err0 == nil:
		return m0, true, nil
	case err1 == nil:
		return m1, true, nil
	}
	return meta{}, false, err0
}

func metaAt(f io.ReaderAt, off int64) (meta, error) {
	var page [pageHeader + metaSize + 8]byte
	if _, err := f.ReadAt(page[:], off); errors.Is(err, io.EOF) {
		return meta{}, damaged("no meta page at byte %d", off)
	} else if err != nil {
		return meta{}, err
	}
	b, e := page[pageHeader:], binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(b[:metaSize])
	m := meta{
		pageSize: uint64(e.Uint32(b[8:])),
		root:     e.Uint64(b[16:]),
		freelist: e.Uint64(b[32:]),
		limit:    e.Uint64(b[40:]),
		tx:       e.Uint64(b[48:]),
	}
	switch {
	case e.Uint32(b) != metaMagic:
		return meta{}, damaged("not a bbolt file: no magic number at byte %d", off)
	case e.Uint64(b[metaSize:]) != sum.Sum64():
		return meta{}, damaged("wrong checksum of the meta page at byte %d", off)
	case e.Uint32(b[4:]) != metaVersion:
		return meta{}, fmt.Errorf("bbolt file format %d: this podwalld knows format %d", e.Uint32(b[4:]), metaVersion)
	case m.pageSize < 1024 || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0:
		return meta{}, damaged("page size %d", m.pageSize)
	}
	return m, nil
}

// A walker visits each page that can be reached, once.
type walker struct {
	f        io.ReaderAt
	pageSize uint64
	limit    uint64
	seen     map[uint64]bool
}

// tree checks the tree below page id, whose keys must begin with lo and end
// before hi; nil is no bound.
func (w *walker) tree(id uint64, lo, hi []byte) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	return w.elements(p, id, lo, hi)
}

// page reads a page with the pages that it overflows into.
func (w *walker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= w.limit {
		return nil, damaged("page %d is not one of 2 to %d", id, w.limit-1)
	}
	var h [pageHeader]byte
	if _, err := w.f.ReadAt(h[:], int64(id*w.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	if own := binary.NativeEndian.Uint64(h[:]); own != id {
		return nil, damaged("page %d says it is page %d", id, own)
	}
	n := uint64(binary.NativeEndian.Uint32(h[12:])) + 1
	if n > w.limit-id {
		return nil, damaged("page %d reaches past the last page", id)
	}
	for i := id; i < id+n; i++ {
		if w.seen[i] {
			return nil, damaged("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	p := make([]byte, n*w.pageSize)
	if _, err := w.f.ReadAt(p, int64(id*w.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return p, nil
}

// elements checks the elements of page p, which is page id or lies inside it.
func (w *walker) elements(p []byte, id uint64, lo, hi []byte) error {
	flags := binary.NativeEndian.Uint16(p[8:])
	n := int(binary.NativeEndian.Uint16(p[10:]))
	if flags != branchPage && flags != leafPage {
		return damaged("page %d is of type %#x", id, flags)
	}
	if flags == branchPage && n == 0 {
		return damaged("page %d is a branch without a leaf", id)
	}
	var prev []byte
	for i := range n {
		e, err := element(p, i, flags)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		switch {
		case i == 0 && lo != nil && !bytes.Equal(e.key, lo): // bbolt finds a page again by its first key
			return damaged("page %d: its first key is not its branch's", id)
		case i > 0 && bytes.Compare(prev, e.key) >= 0, hi != nil && bytes.Compare(e.key, hi) >= 0:
			return damaged("page %d: key %d is out of order", id, i)
		}
		prev = e.key
		if err := w.below(p, id, i, n, e, hi); err != nil {
			return err
		}
	}
	return nil
}

// below checks what element e, the i'th of n, leads to.
func (w *walker) below(p []byte, id uint64, i, n int, e entry, hi []byte) error {
	switch {
	case e.bucket:
		return w.bucket(e.value, id)
	case e.child == 0:
		return nil
	}
	if i+1 < n {
		next, err := element(p, i+1, branchPage)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		hi = next.key
	}
	return w.tree(e.child, e.key, hi)
}

// bucket checks the bucket that value describes.
func (w *walker) bucket(value []byte, id uint64) error {
	if len(value) < elementSize {
		return damaged("page %d: a bucket of %d bytes", id, len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return w.tree(root, nil, nil)
	}
	inline := value[elementSize:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return damaged("page %d: a bucket in place that is no leaf", id)
	}
	return w.elements(inline, id, nil, nil)
}

// An entry is one element of a page.
type entry struct {
	key, value []byte
	child      uint64 // of a branch
	bucket     bool   // value describes a bucket
}

// element returns element i of page p.
func element(p []byte, i int, flags uint16) (entry, error) {
	start := pageHeader + i*elementSize
	if start+elementSize > len(p) {
		return entry{}, damaged("element %d is outside", i)
	}
	b, e := p[start:], binary.NativeEndian
	if flags == branchPage {
		key, _, ok := cut(b, e.Uint32(b), e.Uint32(b[4:]), 0)
		if child := e.Uint64(b[8:]); ok && child != 0 {
			return entry{key: key, child: child}, nil
		}
		return entry{}, damaged("element %d leads nowhere", i)
	}
	kind := e.Uint32(b)
	key, value, ok := cut(b, e.Uint32(b[4:]), e.Uint32(b[8:]), e.Uint32(b[12:]))
	if !ok || kind&^bucketElement != 0 {
		return entry{}, damaged("element %d points outside", i)
	}
	return entry{key: key, value: value, bucket: kind == bucketElement}, nil
}

// cut returns the ksize and then vsize bytes at b[pos:].
func cut(b []byte, pos, ksize, vsize uint32) (key, value []byte, ok bool) {
	k := uint64(pos)
	v := k + uint64(ksize)
	end := v + uint64(vsize)
	if end > uint64(len(b)) {
		return nil, nil, false
	}
	return b[k:v], b[v:end], true
}
