module github.com/podwall/podwall/integration/cluster/parts/cyclonus

go 1.26.0

require github.com/mattfenwick/cyclonus v0.5.6
