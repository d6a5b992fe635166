package bundle

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podwall/podwall/daemon/doctor"
	"github.com/podwall/podwall/internal/api"
)

// folder holds all files of a bundle.
const folder = "podwall-bundle/"

const (
	patience = 10 * time.Second // for one program or one question
	longest  = 1 << 20          // bytes of one file; of what is longer the end is taken
	lines    = "5000"           // of the log
)

// Sources are what a bundle is made from.
type Sources struct {
	Root    string // where the node's files are
	Version string
	Now     time.Time
	Results []doctor.Result
	// Files are the files to take, by their names in the bundle.
	Files map[string]string
	// Ask puts a question to the daemon.
	Ask func(ctx context.Context, verb api.Verb, question, answer any) error
	// Run runs a program and returns what it says.
	Run func(ctx context.Context, path string, args ...string) (string, error)
}

// A writer writes a bundle.
type writer struct {
	Sources
	tar    *tar.Writer
	listed []string // what is in it
	absent []string // what is not, and why
}

// Write writes a bundle to w, as a gzipped tar archive.
func Write(ctx context.Context, w io.Writer, s Sources) error {
	z := gzip.NewWriter(w)
	b := &writer{Sources: s, tar: tar.NewWriter(z)}
	err := b.all(ctx)
	if err = errors.Join(err, b.tar.Close(), z.Close()); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

func (b *writer) all(ctx context.Context) error {
	pods, podErr := b.pods(ctx)
	return errors.Join(
		b.json("doctor.json", b.Results, nil),
		b.answer(ctx, "status.json", api.VerbStatus, nil),
		b.answer(ctx, "policies.json", api.VerbPolicies, nil),
		b.json("pods.json", pods, podErr),
		b.inspections(ctx, pods),
		b.rulesets(ctx, pods),
		b.files(),
		b.program(ctx, "log", "journalctl", "--unit=podwalld", "--no-pager", "--output=short-iso", "--lines="+lines),
		b.program(ctx, "kernel", "uname", "-a"),
		b.program(ctx, "modules", "lsmod"),
		b.program(ctx, "sysctl", "sysctl", "net.netfilter", "net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "fs.inotify"),
		b.program(ctx, "nft-version", "nft", "--version"),
		b.readme(),
	)
}

func (b *writer) pods(ctx context.Context) (pods []api.PodSummary, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return pods, b.Ask(ctx, api.VerbPods, nil, &pods)
}

// add puts one file into the bundle, cleaned.
func (b *writer) add(name, content string) error {
	if cut := len(content) - longest; cut > 0 {
		content = "(the beginning is left out)\n" + content[cut:]
	}
	content = clean(content)
	b.listed = append(b.listed, name)
	h := &tar.Header{Name: folder + name, Mode: 0o600, Size: int64(len(content)), ModTime: b.Now, Typeflag: tar.TypeReg}
	if err := b.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(b.tar, content)
	return err
}

// lacks notes what can't be had.
func (b *writer) lacks(name string, err error) error {
	b.absent = append(b.absent, clean(fmt.Sprintf("%s: %v", name, err)))
	return nil
}

func (b *writer) json(name string, v any, err error) error {
	if err != nil {
		return b.lacks(name, err)
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return b.lacks(name, err)
	}
	return b.add(name, string(text)+"\n")
}

// answer is what the daemon says to one question.
func (b *writer) answer(ctx context.Context, name string, verb api.Verb, question any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var v any
	err := b.Ask(ctx, verb, question, &v)
	return b.json(name, v, err)
}

func (b *writer) inspections(ctx context.Context, pods []api.PodSummary) error {
	var errs []error
	for _, p := range pods {
		errs = append(errs, b.answer(ctx, "inspect/"+fileName(p)+".json", api.VerbInspect,
			api.InspectRequest{Pod: p.ContainerID, Interface: p.Interface}))
	}
	return errors.Join(errs...)
}

// rulesets is podwall's tables as the kernel has them, in each pod's namespace.
// Other tables there are somebody else's.
func (b *writer) rulesets(ctx context.Context, pods []api.PodSummary) error {
	var errs []error
	for _, p := range pods {
		for _, table := range []string{"inet", "netdev"} {
			errs = append(errs, b.program(ctx, "nft/"+fileName(p)+"."+table, "nsenter", "--net="+filepath.Join(b.Root, p.Netns), "nft", "list", "table", table, "podwall"))
		}
	}
	return errors.Join(errs...)
}

// fileName is a name for what is about an attachment, whatever its pod is called.
func fileName(p api.PodSummary) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_", r) {
			return r
		}
		return '_'
	}, p.Pod()+"_"+p.Key.String())
}

func (b *writer) program(ctx context.Context, name, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text, err := b.Run(ctx, program, args...)
	if err != nil {
		return b.lacks(name, err)
	}
	return b.add(name, text)
}

func (b *writer) files() error {
	var errs []error
	for name, path := range b.Files {
		text, err := os.ReadFile(filepath.Join(b.Root, path))
		if err != nil {
			errs = append(errs, b.lacks(name, err))
			continue
		}
		errs = append(errs, b.add(name, string(text)))
	}
	return errors.Join(errs...)
}

func (b *writer) readme() error {
	var t strings.Builder
	fmt.Fprintf(&t, `A bundle for a report about podwall %s, made %s.

It holds names of pods, their labels, addresses and rules, and the end of
podwalld's log. Keys, tokens and passwords were taken out where they were
recognised; look through it before you give it to others.

In it:
`, b.Version, b.Now.UTC().Format(time.RFC3339))
	for _, name := range b.listed {
		fmt.Fprintf(&t, "  %s\n", name)
	}
	if len(b.absent) > 0 {
		t.WriteString("\nNot in it, because it could not be had:\n")
		for _, what := range b.absent {
			fmt.Fprintf(&t, "  %s\n", strings.ReplaceAll(what, "\n", " "))
		}
	}
	return b.add("README", t.String())
}
