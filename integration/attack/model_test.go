package attack

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
)

// page is where the attacks are told to people.
const page = "../../docs/threat-model.md"

// suites are the tests that make an attack in each subtest.
func suites() map[string][]attack {
	tampers := make([]attack, 0, len(tamperings()))
	for _, a := range tamperings() {
		tampers = append(tampers, attack{name: a.name, needs: []int{intruder.NetAdmin}})
	}
	return map[string][]attack{
		"TestPacketSocket": packetAttacks(), "TestRawSocket": rawAttacks(), "TestForgedSource": sourceAttacks(),
		"TestFalseConnection": falseConnections(), "TestTampering": tampers, "TestAcceptingChain": acceptingChains(),
		"TestDevice": deviceAttacks(), "TestLimit": limits(),
	}
}

// A row of the page's tables names tests and what their attacks need.
type row struct {
	needs string
	tests []string
}

var testName = regexp.MustCompile("`(Test[^`]*)`")

// rows returns the rows that name tests.
func rows(t *testing.T) []row {
	t.Helper()
	b, err := os.ReadFile(page)
	must(t, err)
	var all []row
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !testName.MatchString(line) {
			continue
		}
		r := row{needs: strings.TrimSpace(cells[2])}
		for _, m := range testName.FindAllStringSubmatch(line, -1) {
			r.tests = append(r.tests, m[1])
		}
		all = append(all, r)
	}
	return all
}

// Every attack here is on the page, once, and needs there what it needs here.
func TestThreatModelNamesEveryAttack(t *testing.T) {
	needs := map[string]string{} // by test; "" where the test itself is the only place that says
	for name := range testFunctions(t, "") {
		needs[name] = ""
	}
	elsewhere := map[string]bool{}
	for _, dir := range others {
		maps.Copy(elsewhere, testFunctions(t, dir))
	}
	for suite, attacks := range suites() {
		if _, ok := needs[suite]; !ok {
			t.Errorf("there is no %s", suite)
		}
		delete(needs, suite)
		for _, a := range attacks {
			if _, ok := needs[suite+"/"+a.name]; ok {
				t.Errorf("two attacks are called %s/%s", suite, a.name)
			}
			needs[suite+"/"+a.name] = capabilities(a.needs)
		}
	}
	named := map[string]bool{}
	for _, r := range rows(t) {
		for _, test := range r.tests {
			need, ok := needs[test]
			switch {
			case !ok && elsewhere[test]:
				continue // what TestThreatModelNamesTestsThatExist is about
			case !ok:
				t.Errorf("%s names %s, which does not exist", page, test)
			case named[test]:
				t.Errorf("%s names %s twice", page, test)
			case need != "" && need != r.needs:
				t.Errorf("%s says that %s needs %q, its test says %q", page, test, r.needs, need)
			}
			named[test] = true
		}
	}
	for _, test := range slices.Sorted(maps.Keys(needs)) {
		if !named[test] {
			t.Errorf("%s does not name %s", page, test)
		}
	}
}

// others are the folders of the page's other tests.
var others = []string{"../faults", "../neighbours", "..", "../../daemon/probe", "../../daemon/events"}

// Wherever the page names a test, in a table or beside it, there is one.
func TestThreatModelNamesTestsThatExist(t *testing.T) {
	b, err := os.ReadFile(page)
	must(t, err)
	exist := testFunctions(t, "")
	for _, dir := range others {
		maps.Copy(exist, testFunctions(t, dir))
	}
	for _, m := range testName.FindAllStringSubmatch(string(b), -1) {
		if name, _, _ := strings.Cut(m[1], "/"); !exist[name] {
			t.Errorf("%s names %s, which does not exist", page, name)
		}
	}
}

// capabilities are the names of capabilities as the page has them.
func capabilities(cs []int) string {
	names := map[int]string{intruder.NetRaw: "NET_RAW", intruder.NetAdmin: "NET_ADMIN", intruder.SetFCap: "SETFCAP", unix.CAP_SYS_ADMIN: "SYS_ADMIN"}
	var words []string
	for _, c := range cs {
		words = append(words, names[c])
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

// testFunctions are the tests in a folder; in this one those that attack: all but
// those of the tests themselves.
func testFunctions(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	must(t, err)
	found := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && strings.HasPrefix(f.Name.Name, "Test") && name != "model_test.go" && f.Name.Name != "TestMain" {
				found[f.Name.Name] = true
			}
		}
	}
	return found
}

// An attack that succeeds with more than it says it needs proves nothing about
// pods that have just that.
func TestIntruderHoldsWhatItIsGiven(t *testing.T) {
	f := newField(t)
	for _, given := range [][]int{nil, {intruder.NetRaw}, {intruder.NetAdmin, intruder.NetRaw}} {
		var want uint64
		for _, c := range given {
			want |= 1 << c
		}
		a := intruder.Act{Script: fmt.Sprintf(
			`for set in Eff Prm Bnd; do grep -q "^Cap$set:.%016x" /proc/self/status; done; grep -q "^CapInh:.0*$" /proc/self/status`, want)}
		if err := f.free.act(t, a, given); err != nil {
			t.Errorf("given %v: %v", given, err)
		}
	}
}
