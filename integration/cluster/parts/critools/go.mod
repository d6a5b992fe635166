module github.com/podwall/podwall/integration/cluster/parts/critools

go 1.26.2

require sigs.k8s.io/cri-tools v1.36.0
