// Command bench measures podwall beside what a user would pick instead: what a
// packet, a new pod, a change of policy and the size of the cluster cost.
//
//	bench -doc docs/performance.md   everything, in less than twenty minutes
//	bench -short                     CI's: minutes, fails on what is far off
//	bench -axes datapath             one part of it
//
// # Contract
//
// What is compared is compared within one run: short slices of A and B alternate,
// each pair gives one ratio, and a line of the table is the median of many, with
// its confidence interval. Nothing is taken from an earlier run or another
// machine. A target is met, or not met, only where the whole interval says so.
//
// It runs on a machine of its own (package lab) and leaves nothing behind but
// the page it was asked for. It exits with status 1 if something could not be
// measured or, with -short, if a figure other than a time is off its target, or what
// is known to be reached instead, by more than noise and a quarter of the slack.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/podwall/podwall/integration/lab"
)

func main() { os.Exit(lab.Private(run)) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	axes := flag.String("axes", "", "the parts to measure, with commas; all by default")
	short := flag.Bool("short", false, "measure in minutes, and fail on what is far off its target")
	soaking := flag.Duration("soak", 2*time.Minute, "how long pods come and go")
	doc := flag.String("doc", "", "the page to write, with its pictures in a folder beside it")
	flag.Parse()
	b := &bench{short: *short, soaking: *soaking, log: os.Stderr}
	if err := b.measure(ctx, *axes); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	b.print(os.Stdout)
	if *doc != "" {
		if err := b.write(*doc); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
	}
	if off := b.farOff(); *short && len(off) > 0 {
		fmt.Fprintf(os.Stderr, "bench: far off:\n\t%s\n", strings.Join(off, "\n\t"))
		return 1
	}
	return 0
}

// An axis is one part of what is measured.
type axis struct {
	name, title, text string
	measure           func(*bench, context.Context) error
	short             bool // part of the short form
}

// axes are all parts, in the order in which the table has them.
func axes() []axis {
	return []axis{
		{"datapath", "Datapath", datapathText, (*bench).datapath, true},
		{"add", "ADD", addText, (*bench).adds, true},
		{"events", "Events", eventsText, (*bench).events, true},
		{"change", "Change to kernel", changeText, (*bench).changes, true},
		{"scale", "Scale of the world", scaleText, (*bench).scale, false},
		{"soak", "Soak", soakText, (*bench).soak, true},
	}
}

// measure runs the named axes, or all.
func (b *bench) measure(ctx context.Context, names string) error {
	known := false
	for _, a := range axes() {
		named := strings.Contains(","+names+",", ","+a.name+",")
		if known = known || named; !named && (names != "" || (b.short && !a.short)) {
			continue
		}
		start := time.Now()
		b.axis = a.title
		if err := a.measure(b, ctx); err != nil {
			return fmt.Errorf("measure %s: %w", a.name, err)
		}
		took := time.Since(start)
		b.took += took
		fmt.Fprintf(b.log, "%s: %.0f s\n", a.name, took.Seconds())
	}
	if names != "" && !known {
		return fmt.Errorf("find axis: none of %q", names)
	}
	return nil
}
