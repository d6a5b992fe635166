// Command demo shows what podwall does, on a node made for it, in less than a
// minute: a small shop of pods with and without its policies, a permission taken
// back from an open connection, the daemon killed, and what policyctl says.
//
// # Contract
//
// Everything it shows is measured as it is shown: real pods, real packets. It
// exits with status 1 if anything is not as it should be. It leaves nothing
// behind, however it ends, and touches nothing outside its own machine (package
// lab). It is in colour on a terminal, plain otherwise and with NO_COLOR.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/podwall/podwall/integration/lab"
)

func main() { os.Exit(lab.Private(run)) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	st := newStage(os.Stdout)
	start := time.Now()
	finished := make(chan error, 1)
	go func() { finished <- play(ctx, st) }()
	var err error
	select {
	case err = <-finished:
	case <-ctx.Done(): // whatever the story waits for ends with this process
		err = context.Cause(ctx)
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\ninterrupted; nothing is left")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, st.paint(red, "demo: "+err.Error()))
		return 1
	}
	fmt.Fprintf(st.out, "\n%s in %.0f s, and nothing of it is left.\n", st.paint(bold, "That was podwall"), time.Since(start).Seconds())
	return 0
}
