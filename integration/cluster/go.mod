module github.com/podwall/podwall/integration/cluster

go 1.26.0
