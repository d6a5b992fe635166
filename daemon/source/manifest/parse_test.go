package manifest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podwall/podwall/internal/policy"
)

// names are the objects of c in their order.
func names(c contents) []string {
	var list []string
	for _, o := range c.objects {
		list = append(list, o.String())
	}
	return list
}

const webPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: fe}}}]
    ports: [{port: 80}]
`

const webPod = `apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-1, labels: {app: web}}
status: {phase: Running, podIPs: [{ip: 10.0.0.7}]}
`

func TestParse(t *testing.T) {
	tests := []struct {
		name     string
		file     string
		data     string
		want     []string
		faults   []string // a part of each
		problems []string // a part of each
	}{
		{name: "each kind is read", file: "a.yaml", data: `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}, addressType: IPv4}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, spec: {podSelector: {}}}
`, want: []string{"Namespace shop", "Node n1", "Pod default/web", "Service shop/web", "EndpointSlice shop/web-x", "NetworkPolicy default/web"}},
		{name: "empty documents are none", file: "a.yaml", data: "---\n# nothing\n---\n" + webPod + "---\n---\n...\n", want: []string{"Pod shop/web-1"}},
		{name: "document after the end marker counts", file: "a.yaml", data: webPod + "...\n---\n" + webPolicy, want: []string{"Pod shop/web-1", "NetworkPolicy shop/web"}},
		{name: "windows line ends", file: "a.yaml", data: strings.ReplaceAll(webPod+"---\n"+webPolicy, "\n", "\r\n"), want: []string{"Pod shop/web-1", "NetworkPolicy shop/web"}},
		{name: "byte order mark", file: "a.yaml", data: "\ufeff" + webPod, want: []string{"Pod shop/web-1"}},
		{name: "json objects one after the other", file: "a.json",
			data: `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}`,
			want: []string{"Namespace a", "Namespace b"}},
		{name: "list", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n",
			want: []string{"Namespace a", "Namespace b"}},
		{name: "elements of a typed list need no kind", file: "a.json", data: `{"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"a"}}]}`,
			want: []string{"Pod default/a"}},
		{name: "list without elements is no fault", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems: []\n"},
		{name: "list inside a list", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]\n", faults: []string{"items[0]: a List inside a List"}},
		{name: "kind that only ends like a list", file: "a.yaml", data: "apiVersion: x/v1\nkind: AllowList\n", problems: []string{"document 1: AllowList of x/v1 is not read here"}},
		{name: "unknown kind leaves the rest", file: "a.yaml", data: "apiVersion: apps/v1\nkind: Deployment\n---\n" + webPod,
			want: []string{"Pod shop/web-1"}, problems: []string{"document 1: Deployment of apps/v1 is not read here"}},
		{name: "unknown version of a known kind", file: "a.yaml", data: "apiVersion: v2\nkind: Pod\n", problems: []string{"Pod of v2"}},
		{name: "fields of a newer Kubernetes", file: "a.yaml", data: strings.ReplaceAll(webPod, "status: {", "spec: {newerField: 5}\nstatus: {newer: [], "), want: []string{"Pod shop/web-1"}},
		{name: "no kind", file: "a.yaml", data: webPod + "---\nmetadata: {name: x}\n", want: []string{"Pod shop/web-1"}, faults: []string{"document 2: no kind"}},
		{name: "no object", file: "a.yaml", data: webPod + "---\n- 1\n", want: []string{"Pod shop/web-1"}, faults: []string{"document 2: not a Kubernetes object: array where an object is wanted"}},
		{name: "syntax", file: "a.yaml", data: webPod + "---\nkind: [\n", want: []string{"Pod shop/web-1"}, faults: []string{"document 2: yaml: line 6"}},
		{name: "rubbish after a document", file: "a.yaml", data: `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}` + "\n{}\n", want: []string{"Namespace a"}, faults: []string{"document 2: yaml: line 1: did not find expected <document start>"}},
		{name: "key that is there twice", file: "a.yaml", data: webPolicy + "kind: Pod\n", faults: []string{`document 1: yaml: unmarshal errors:`}},
		{name: "key that is there twice, by another name", file: "a.yaml", data: "{kind: Pod, apiVersion: v1, metadata: {true: 1, 'true': 2}}\n", faults: []string{`key "true" is there twice`}},
		{name: "key that is there twice in json", file: "a.json", data: "\n{\"kind\":\"Pod\",\"kind\":\"Node\"}", faults: []string{`document 1: json: line 2: duplicate field "kind"`}},
		{name: "json that ends early", file: "a.json", data: "{\n\"kind\":\n", faults: []string{"document 1: json: line 3: unexpected EOF"}},
		{name: "json with a slip", file: "a.json", data: "{\n\"kind\": Pod}", faults: []string{"document 1: json: line 2: invalid character"}},
		{name: "empty file", file: "a.yaml", data: "", faults: []string{"no object in the file; to withdraw its objects delete the file"}},
		{name: "comments only", file: "a.yaml", data: "# nothing\n", faults: []string{"no object in the file"}},
		{name: "empty json file", file: "a.json", data: " \n", faults: []string{"no object in the file"}},
		{name: "binary", file: "a.yaml", data: "\x7fELF\x00\x01", faults: []string{"yaml: control characters"}},
		{name: "label that is a number", file: "a.yaml", data: strings.Replace(webPod, "app: web", "app: web, version: 1.5", 1),
			want: []string{"Pod shop/web-1"}, faults: []string{"document 1: Pod shop/web-1: metadata.labels: number where a string is wanted"}},
		{name: "object without a name", file: "a.yaml", data: "apiVersion: v1\nkind: Pod\n", problems: []string{"metadata.name: missing (a.yaml, document 1)"}},
		{name: "bad address", file: "a.yaml", data: strings.Replace(webPod, "10.0.0.7", "10.0.0.777", 1),
			want: []string{"Pod shop/web-1"}, problems: []string{"Pod shop/web-1: status.podIPs[0].ip: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := parse(tt.file, []byte(tt.data))
			if diff := cmp.Diff(tt.want, names(c)); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			var problems []string
			for _, p := range c.problems {
				problems = append(problems, p.String())
			}
			contain(t, "faults", c.faults, tt.faults)
			contain(t, "problems", problems, tt.problems)
		})
	}
}

// contain checks that each of got contains its part of want.
func contain(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
	for i := range got {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("%s: got %q, want %q in it", what, got[i], want[i])
		}
	}
}

// A NetworkPolicy that can't be honoured isolates.
func TestBrokenPolicyIsolates(t *testing.T) {
	everyone := policy.PodSet{Namespace: "shop", Pods: policy.Selector{All: true}}
	web := policy.PodSet{Namespace: "shop", Pods: policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{"web"}}}}}
	replace := func(old, with string) string {
		if !strings.Contains(webPolicy, old) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return strings.Replace(webPolicy, old, with, 1)
	}
	tests := []struct {
		name            string
		data            string
		ref             string
		subject         policy.PodSet
		ingress, egress bool
		broken          string // a part of it
	}{
		{"unknown field", replace("from:", "form:"), "shop/web", web, true, false, `spec.ingress[0].form: unknown field "spec.ingress[0].form"`},
		{"unknown field, directions not said", strings.Replace(replace("from:", "form:"), "policyTypes: [Ingress]", "", 1), "shop/web", web, true, true, "spec.ingress[0].form"},
		{"unknown field at the top", webPolicy + "Spec: {}\n", "shop/web", web, true, false, `"Spec"`},
		{"port that is a list", replace("port: 80", "port: [1]"), "shop/web", web, true, false, "array where a number is wanted"},
		{"block that is a number", replace("podSelector: {matchLabels: {app: fe}}", "ipBlock: {cidr: 10}"), "shop/web", web, true, false, "spec.ingress.from.ipBlock.cidr: number where a string is wanted"},
		{"block that is none", replace("podSelector: {matchLabels: {app: fe}}", "ipBlock: {cidr: ten}"), "shop/web", web, true, false, "cidr"},
		{"selector with a number", replace("{app: web}", "{app: 5}"), "shop/web", everyone, true, false, "number where a string is wanted"},
		{"selector with an unknown field", replace("matchLabels: {app: web}", "matchLabel: {app: web}"), "shop/web", everyone, true, false, "spec.podSelector.matchLabel"},
		{"directions that are none", replace("[Ingress]", "Ingress"), "shop/web", web, true, true, "spec.policyTypes"},
		{"spec that is a list", strings.Split(webPolicy, "spec:")[0] + "spec: []\n", "shop/web", everyone, true, true, "spec"},
		{"slip in the version", replace("networking.k8s.io/v1", "networking.k8s.io/v1beta1"), "shop/web", web, true, false, "apiVersion: networking.k8s.io/v1beta1: want networking.k8s.io/v1"},
		{"no version", replace("apiVersion: networking.k8s.io/v1", ""), "shop/web", web, true, false, "apiVersion: no apiVersion"},
		{"name that YAML takes for a number", replace("name: web", "name: 5"), "shop/5", web, true, false, "metadata.name: number where a string is wanted"},
		{"no name", replace(", name: web", ""), "shop/@a.yaml#1", web, true, false, "metadata.name: missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := parse("a.yaml", []byte(tt.data))
			if len(c.faults) > 0 || len(c.objects) != 1 || len(c.problems) == 0 {
				t.Fatalf("faults %q, objects %q, problems %q; want one object with problems", c.faults, names(c), c.problems)
			}
			p := c.objects[0].value.(policy.Policy)
			if p.Ref.String() != tt.ref || p.Ingress.Applies != tt.ingress || p.Egress.Applies != tt.egress {
				t.Errorf("%s isolates ingress %v, egress %v; want %s, %v, %v", p.Ref, p.Ingress.Applies, p.Egress.Applies, tt.ref, tt.ingress, tt.egress)
			}
			if diff := cmp.Diff(tt.subject, p.Subject); diff != "" {
				t.Errorf("subject (-want +got):\n%s", diff)
			}
			if len(p.Ingress.Rules)+len(p.Egress.Rules) > 0 {
				t.Errorf("it admits: %+v %+v", p.Ingress.Rules, p.Egress.Rules)
			}
			if !strings.Contains(p.Broken, tt.broken) {
				t.Errorf("Broken is %q, want %q in it", p.Broken, tt.broken)
			}
		})
	}
}

func TestPolicyWithAnOldStatusIsNotBroken(t *testing.T) {
	c := parse("a.yaml", []byte(webPolicy+"status: {}\n"))
	if p := c.objects[0].value.(policy.Policy); p.Broken != "" || len(p.Ingress.Rules) != 1 {
		t.Errorf("Broken %q, %d rules; want none and 1", p.Broken, len(p.Ingress.Rules))
	}
}

func TestForeignNetworkPolicyIsAnUnknownKind(t *testing.T) {
	c := parse("a.yaml", []byte("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: x}\nspec: {selector: all()}\n"))
	if len(c.objects) != 0 || len(c.problems) != 1 {
		t.Errorf("objects %q, problems %q; want no object and one problem", names(c), c.problems)
	}
}

func TestBombsEndQuickly(t *testing.T) {
	laughs := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := '1'; i <= '9'; i++ {
		p := string(i - 1)
		laughs += strings.ReplaceAll("aN: &aN [*aP,*aP,*aP,*aP,*aP,*aP,*aP,*aP,*aP,*aP]\n", "N", string(i))
		laughs = strings.ReplaceAll(laughs, "aP", "a"+p)
	}
	for name, data := range map[string]string{
		"billion laughs":  laughs + "kind: Pod\n",
		"alias of itself": "a: &a [*a]\n",
		"deep yaml":       strings.Repeat("[", 1<<20),
		"deep json":       strings.Repeat(`{"a":`, 1<<20),
		"many problems":   strings.Repeat("---\n{kind: X}\n", 1<<14),
		"many misfits":    "kind: PodList\napiVersion: v1\nitems:\n" + strings.Repeat("- 5\n", 1<<14),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			for _, file := range []string{"a.yaml", "a.json"} {
				c := parse(file, []byte(data))
				if len(c.faults)+len(c.problems) == 0 {
					t.Errorf("%s: neither faults nor problems", file)
				}
				if n := len(c.faults) + len(c.problems); n > 2*maxProblems+1 {
					t.Errorf("%s: %d faults and problems, want fewer", file, n)
				}
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// FuzzParse holds whatever a file says: parse ends, and what it returns is
// closed.
func FuzzParse(f *testing.F) {
	for _, s := range []string{webPolicy, webPod + "---\n" + webPolicy, "kind: List\napiVersion: v1\nitems: [{kind: Pod, apiVersion: v1}]\n", "a: &a [*a]", "{", ""} {
		f.Add("a.yaml", []byte(s))
	}
	f.Add("a.json", []byte(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicyList","items":[{"metadata":{"name":5},"spec":{"podSelector":{},"egress":[{"ports":[{"port":[1]}]}]}}]}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		for _, o := range parse(name, data).objects {
			if o.name == "" {
				t.Errorf("%s without a name", o.kind)
			}
			p, ok := o.value.(policy.Policy)
			if !ok || p.Broken == "" {
				continue
			}
			if len(p.Ingress.Rules)+len(p.Egress.Rules) > 0 || !(p.Ingress.Applies || p.Egress.Applies) {
				t.Errorf("%s is broken (%s) and not closed: %+v", o, p.Broken, p)
			}
		}
	})
}
