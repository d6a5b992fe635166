package manifest

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/store"
)

// A memory is Files without a disk.
type memory struct {
	contents map[string][]byte
	fail     error
}

func (m *memory) Files() (map[string][]byte, error) { return maps.Clone(m.contents), m.fail }

func (m *memory) SaveFiles(contents map[string][]byte) error {
	if m.fail != nil {
		return m.fail
	}
	for name, data := range contents {
		if m.contents == nil {
			m.contents = map[string][]byte{}
		}
		if m.contents[name] = data; data == nil {
			delete(m.contents, name)
		}
	}
	return nil
}

// A folder is a directory of manifests in a test.
type folder struct {
	t   testing.TB
	dir string
}

func newFolder(t testing.TB) folder { return folder{t, t.TempDir()} }

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f folder) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) write(name, data string) {
	f.t.Helper()
	f.must(os.WriteFile(f.path(name), []byte(data), 0o600))
}

func (f folder) remove(name string) {
	f.t.Helper()
	f.must(os.Remove(f.path(name)))
}

// look is a scan of the folder as Run does it.
func look(t *tree) source.World {
	t.scan()
	return t.world(nil)
}

// what names the policies of w, those that isolate only with a "!".
func what(w source.World) string {
	var list []string
	for _, p := range w.Policies {
		name := p.Ref.String()
		if p.Broken != "" {
			name += "!"
		}
		list = append(list, name)
	}
	return strings.Join(list, " ")
}

func expect(t *testing.T, when string, w source.World, policies string, problems ...string) {
	t.Helper()
	if got := what(w); got != policies {
		t.Errorf("%s: policies %q, want %q", when, got, policies)
	}
	var texts []string
	for _, p := range w.Problems {
		texts = append(texts, p.String())
	}
	contain(t, when+": problems", texts, problems)
}

func named(name string) string { return strings.Replace(webPolicy, "name: web", "name: "+name, 1) }

const terminating = "\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop}, status: {phase: Terminating}}\n"

func TestBrokenFileKeepsItsLastGoodContent(t *testing.T) {
	for name, broken := range map[string]string{
		"empty": "", "syntax": "kind: [", "truncated": webPolicy[:len(webPolicy)/2], "no kind": "metadata: {}", "too large": strings.Repeat("#", maxSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			tr := newTree(f.dir, nil)
			f.write("a.yaml", webPolicy)
			expect(t, "good", look(tr), "shop/web")
			f.write("a.yaml", broken)
			expect(t, "broken", look(tr), "shop/web", "last good content stays in force")
			expect(t, "broken, again", look(tr), "shop/web", "last good content stays in force")
			f.write("a.yaml", named("api"))
			expect(t, "good again", look(tr), "shop/api")
			f.write("a.yaml", broken)
			f.remove("a.yaml")
			expect(t, "deleted", look(tr), "")
		})
	}
}

func TestFileThatWasNeverGoodCountsAsFarAsItCanBeRead(t *testing.T) {
	f := newFolder(t)
	tr := newTree(f.dir, nil)
	f.write("a.yaml", webPolicy+"---\nkind: [\n")
	expect(t, "half", look(tr), "shop/web", "no good content of the file is known")
	f.write("a.yaml", webPolicy+"---\n"+named("api")+"---\nkind: [\n")
	expect(t, "two thirds", look(tr), "shop/api shop/web", "no good content of the file is known")
}

func TestOnlyManifestsInTheDirectoryItselfCount(t *testing.T) {
	f := newFolder(t)
	f.must(os.Mkdir(f.path("sub"), 0o700))
	f.must(os.Mkdir(f.path("dir.yaml"), 0o700))
	f.must(syscall.Mkfifo(f.path("pipe.yaml"), 0o600))
	f.must(os.Symlink("nowhere", f.path("gone.yaml")))
	for _, name := range []string{"sub/a.yaml", ".hidden.yaml", "a.yaml~", "a.yaml.swp", "README", "#a.yaml#"} {
		f.write(name, webPolicy)
	}
	for _, name := range []string{"a.yaml", "b.yml"} {
		f.write(name, named(name[:1]))
	}
	f.write("c.json", `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"c","namespace":"shop"},"spec":{}}`)
	expect(t, "all", look(newTree(f.dir, nil)), "shop/a shop/b shop/c",
		"dir.yaml: not a regular file", "gone.yaml: no such file or directory", "pipe.yaml: not a regular file")
}

func TestDirectoryThatIsAwayKeepsEverything(t *testing.T) {
	f := newFolder(t)
	tr := newTree(f.dir, nil)
	f.write("a.yaml", webPolicy)
	expect(t, "there", look(tr), "shop/web")
	f.must(os.RemoveAll(f.dir))
	expect(t, "away", look(tr), "shop/web", "no such file or directory; what was there before stays in force")
	f.must(os.Mkdir(f.dir, 0o700))
	expect(t, "back and empty", look(tr), "")
}

func TestUnknownIsOnlyWhatWasNeverRead(t *testing.T) {
	f, mem := newFolder(t), &memory{}
	away := f.path("sub")
	check := func(when string, tr *tree, want bool) {
		t.Helper()
		if got := look(tr).Unknown; (got != "") != want {
			t.Errorf("%s: Unknown is %q, want one: %v", when, got, want)
		}
	}
	tr := newTree(away, mem)
	check("never there", tr, true)
	f.must(os.Mkdir(away, 0o700))
	check("there and empty", tr, false)
	f.write("sub/a.yaml", webPolicy)
	check("there", tr, false)
	f.must(os.RemoveAll(away))
	check("away again", tr, false)
	check("away, known from before", newTree(away, mem), false)
}

func TestFirstOfTwoObjectsCounts(t *testing.T) {
	f := newFolder(t)
	pod := func(node string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web}, spec: {nodeName: " + node + "}}\n"
	}
	f.write("b.yaml", pod("second"))
	f.write("a.yaml", pod("first")+"---\n"+pod("third"))
	w := look(newTree(f.dir, nil))
	expect(t, "twice", w, "",
		"Pod shop/web: in a.yaml (document 1) and again in a.yaml (document 2): the first counts",
		"Pod shop/web: in a.yaml (document 1) and again in b.yaml (document 1): the first counts")
	if len(w.Pods) != 1 || w.Pods[0].Node != "first" || w.Objects["Pod"] != 1 {
		t.Errorf("pods %+v, %d counted; want the first", w.Pods, w.Objects["Pod"])
	}
}

func TestSecondPolicyOfANameOnlyIsolates(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", webPolicy)
	f.write("b.yaml", strings.Replace(webPolicy, "app: web", "app: db", 1))
	w := look(newTree(f.dir, nil))
	expect(t, "twice", w, "shop/web shop/web@b.yaml#1!",
		"NetworkPolicy shop/web: in a.yaml (document 1) and again in b.yaml (document 1): the first counts, the other isolates")
	first, second := w.Policies[0], w.Policies[1]
	if len(first.Ingress.Rules) != 1 {
		t.Errorf("the first has %d rules, want 1", len(first.Ingress.Rules))
	}
	if second.Subject.Pods.Needs[0].Values[0] != "db" || !second.Ingress.Applies || len(second.Ingress.Rules) > 0 {
		t.Errorf("the second does not just isolate app=db: %+v", second)
	}
}

func TestPolicyOfATerminatingNamespaceStays(t *testing.T) {
	f, mem := newFolder(t), &memory{}
	tr := newTree(f.dir, mem)
	f.write("ns.yaml", strings.Replace(terminating, "Terminating", "Active", 1))
	f.write("a.yaml", webPolicy+"---\n"+named("api"))
	expect(t, "active", look(tr), "shop/api shop/web")

	f.write("ns.yaml", terminating)
	f.write("a.yaml", named("api"))
	stays := "NetworkPolicy shop/web: withdrawn while its namespace is terminating"
	expect(t, "terminating", look(tr), "shop/api shop/web", stays)
	expect(t, "terminating, again", look(tr), "shop/api shop/web", stays)
	tr = newTree(f.dir, mem)
	expect(t, "terminating, after a restart", look(tr), "shop/api shop/web", stays)

	f.write("a.yaml", webPolicy)
	expect(t, "the other way round", look(tr), "shop/api shop/web", strings.Replace(stays, "web", "api", 1))
	f.remove("ns.yaml")
	expect(t, "namespace gone", look(tr), "shop/web")
	if names := slices.Sorted(maps.Keys(mem.contents)); !slices.Equal(names, []string{"a.yaml"}) {
		t.Errorf("still stored: %q, want a.yaml alone", names)
	}
}

func TestPolicyOfAnActiveNamespaceGoes(t *testing.T) {
	f := newFolder(t)
	tr := newTree(f.dir, nil)
	f.write("a.yaml", webPolicy+strings.Replace(terminating, "Terminating", "Active", 1))
	expect(t, "there", look(tr), "shop/web")
	f.write("a.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
	expect(t, "withdrawn", look(tr), "")
}

func TestWhatARestartRemembers(t *testing.T) {
	f := newFolder(t)
	path := filepath.Join(t.TempDir(), "podwall", "state.db")
	// restart is a daemon's life, which looks once.
	restart := func(when, policies string, problems ...string) {
		t.Helper()
		s, err := store.Open(path)
		f.must(err)
		expect(t, when, look(newTree(f.dir, s)), policies, problems...)
		f.must(s.Close())
	}
	f.write("a.yaml", webPolicy)
	f.write("b.yaml", named("api"))
	restart("good", "shop/api shop/web")
	f.write("a.yaml", "kind: [")
	restart("broken meanwhile", "shop/api shop/web", "a.yaml: document 1: yaml")
	restart("still broken", "shop/api shop/web", "last good content stays")
	f.remove("b.yaml")
	restart("one deleted meanwhile", "shop/web", "a.yaml: ")
	f.write("c.yaml", named("gone")+terminating)
	restart("terminating", "shop/gone shop/web", "a.yaml: ")
	f.write("c.yaml", terminating)
	restart("withdrawn meanwhile", "shop/gone shop/web", "a.yaml: ", "withdrawn while its namespace is terminating")
	f.must(os.Rename(f.dir, f.dir+".away"))
	restart("directory away", "shop/gone shop/web", "what was there before stays in force", "withdrawn while")
	f.must(os.Rename(f.dir+".away", f.dir))
	f.must(os.RemoveAll(f.dir))
	f.must(os.Mkdir(f.dir, 0o700))
	restart("all deleted", "")
	restart("all deleted, again", "")
}

func TestStoreThatFailsIsAProblemAndTriedAgain(t *testing.T) {
	f, mem := newFolder(t), &memory{fail: errors.New("disk full")}
	tr := newTree(f.dir, mem)
	f.write("a.yaml", webPolicy)
	expect(t, "failing", look(tr), "shop/web", "not kept for a restart: disk full", "is not known: disk full")
	mem.fail = nil
	expect(t, "well again", look(tr), "shop/web", "is not known: disk full")
	if string(mem.contents["a.yaml"]) != webPolicy {
		t.Errorf("stored: %q, want the policy", mem.contents)
	}
}

func TestWorldDoesNotDependOnHowItIsCutIntoFiles(t *testing.T) {
	docs := []string{webPolicy, named("api"), webPod, "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n"}
	one, many := newFolder(t), newFolder(t)
	one.write("all.yaml", strings.Join(docs, "---\n"))
	for i, d := range docs {
		many.write(string(rune('z'-i))+".yaml", d)
	}
	if diff := cmp.Diff(snapshot(Read(one.dir)), snapshot(Read(many.dir))); diff != "" {
		t.Errorf("-one file +many files:\n%s", diff)
	}
}

// snapshot is w as text that cmp compares.
func snapshot(w source.World) []string {
	var list []string
	for _, p := range w.Policies {
		list = append(list, "policy "+p.Ref.String())
	}
	for _, p := range w.Pods {
		list = append(list, "pod "+p.Namespace+"/"+p.Name+" "+p.Addresses[0].String())
	}
	for _, n := range w.Namespaces {
		list = append(list, "namespace "+n.Name)
	}
	return list
}
