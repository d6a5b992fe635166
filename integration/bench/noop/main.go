// Command noop is a chained CNI plugin that does nothing: the least that any
// plugin costs.
//
// # Contract
//
// ADD passes the previous plugin's result on unchanged. All verbs succeed.
package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	nothing := func(*skel.CmdArgs) error { return nil }
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Check: nothing, Del: nothing, GC: nothing, Status: nothing}, version.All, "noop")
}

func add(args *skel.CmdArgs) error {
	var conf types.NetConf
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return fmt.Errorf("parse configuration: %w", err)
	}
	if err := version.ParsePrevResult(&conf); err != nil {
		return fmt.Errorf("parse previous result: %w", err)
	}
	if conf.PrevResult == nil {
		return errors.New("pass result on: there is none")
	}
	return types.PrintResult(conf.PrevResult, conf.CNIVersion)
}
