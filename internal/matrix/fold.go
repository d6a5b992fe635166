package matrix

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/policy"
)

// fold puts pods of one owner that nothing tells apart into one row. all holds
// what each may reach at each.
func fold(pods []policy.Pod, all [][][]Port) Matrix {
	keys := make([][]string, len(pods))
	for i := range pods {
		for j := range pods {
			keys[i] = append(keys[i], keyOf(all[i][j]))
		}
	}
	var groups [][]int
	for i, p := range pods {
		g := slices.IndexFunc(groups, func(g []int) bool {
			return sameOwner(pods[g[0]], p) && !slices.ContainsFunc(g, func(j int) bool { return !alike(keys, i, j) })
		})
		if g < 0 {
			groups = append(groups, []int{i})
		} else {
			groups[g] = append(groups[g], i)
		}
	}
	m := Matrix{Pods: []Row{}, Cells: []Cell{}}
	for _, g := range groups {
		m.Pods = append(m.Pods, rowOf(pods, g))
	}
	for i, from := range groups {
		for j, to := range groups {
			f, t := from[0], to[0]
			if i == j && len(to) > 1 {
				t = to[1] // each other, not itself
			}
			m.Cells = append(m.Cells, cellOf(m.Pods[i], m.Pods[j], pods[f], pods[t], all[f][t]))
		}
	}
	return m
}

// cellOf is the cell of two rows, given what is true of one pod of each.
func cellOf(from, to Row, a, b policy.Pod, ports []Port) Cell {
	c := Cell{From: from.Name, To: to.Name, Verdict: verdictOn(ports), Ports: slices.Clone(ports)}
	c.Self = podID(a) == podID(b)
	for i := range c.Ports {
		for _, side := range []*Side{&c.Ports[i].Egress, &c.Ports[i].Ingress} {
			if side.prose {
				side.By = inRow(inRow(side.By, podID(a), from), podID(b), to)
			}
		}
	}
	return c
}

// inRow is a sentence about pod as one about its row.
func inRow(sentence, pod string, row Row) string {
	words := strings.Split(sentence, " ")
	for i, w := range words {
		if w == pod {
			words[i] = row.Name
		}
	}
	return strings.Join(words, " ")
}

func podID(p policy.Pod) string { return p.Namespace + "/" + p.Name }

func keyOf(ports []Port) string {
	var b strings.Builder
	for _, p := range ports {
		if p.Ports != nil {
			b.WriteString(p.Ports.String())
		}
		b.WriteString(" " + p.decision() + "\n")
	}
	return b.String()
}

// alike reports whether a and b may reach the same, are reached by the same, and
// each reaches the other as it is reached.
func alike(keys [][]string, a, b int) bool {
	for z := range keys {
		if z != a && z != b && (keys[a][z] != keys[b][z] || keys[z][a] != keys[z][b]) {
			return false
		}
	}
	return keys[a][b] == keys[b][a]
}

// ownLabels are labels that each pod, or each version of its template, has to
// itself.
var ownLabels = []string{"pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"}

// sameOwner reports whether names and labels of a and b are such as one owner
// gives to its pods.
func sameOwner(a, b policy.Pod) bool {
	return a.Namespace == b.Namespace && owner(a) != "" && owner(a) == owner(b) && maps.Equal(shared(a.Labels), shared(b.Labels))
}

// owner is the name of what made p, as far as p's own name and labels tell.
func owner(p policy.Pod) string {
	name := p.Name[:max(0, strings.LastIndexByte(p.Name, '-'))]
	if hash := p.Labels["pod-template-hash"]; hash != "" {
		name = strings.TrimSuffix(name, "-"+hash)
	}
	return name
}

func shared(l policy.Labels) policy.Labels {
	l = maps.Clone(l)
	for _, k := range ownLabels {
		delete(l, k)
	}
	return l
}

func rowOf(pods []policy.Pod, group []int) Row {
	first := pods[group[0]]
	row := Row{Name: podID(first), Namespace: first.Namespace}
	for _, i := range group {
		row.Pods = append(row.Pods, podID(pods[i]))
	}
	if len(group) > 1 {
		row.Name = fmt.Sprintf("%s/%s-* (%d)", first.Namespace, owner(first), len(group))
	}
	return row
}
