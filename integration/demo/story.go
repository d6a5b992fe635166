package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwall/podwall/integration/lab"
)

// patience is how long the demo waits for what should happen.
const patience = 10 * time.Second

// play tells the story, scene by scene.
func play(ctx context.Context, st *stage) error {
	s, err := newShop()
	if err != nil {
		return err
	}
	for _, scene := range []func(context.Context, *stage, *shop) error{
		withoutPolicies, withPolicies, takeBack, readIt, killDaemon, leave,
	} {
		if err := scene(ctx, st, s); err != nil {
			return fmt.Errorf("%w\n%s", err, s.node.LogTail())
		}
	}
	return nil
}

func withoutPolicies(ctx context.Context, st *stage, s *shop) error {
	st.scene("A node with pods, and no policy")
	st.say("A network namespace plays the node. Pods are added the way a container runtime does:")
	st.say("the CNI plugins bridge and host-local, and podwall chained behind them.")
	if err := s.apply("pods.yaml"); err != nil {
		return err
	}
	if err := s.node.Start(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := s.open(ctx, "client", "web", "api", "db", "cache", "scraper"); err != nil {
		return err
	}
	st.done("podwalld runs, 6 pods were added in %s", ms(time.Since(start)))
	st.say("Who reaches whom (row: who opens the connection; ✓ it is answered, ✗ it is not):")
	return s.show(ctx, st, true)
}

// show tries and prints the table of who reaches whom.
func (s *shop) show(ctx context.Context, st *stage, everybody bool) error {
	m, err := s.matrix(wanted, everybody)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	settled := lab.Settle(ctx, m.flows) // the first packets of a pod may get lost
	if err := st.table(m, lab.Passing(ctx, m.flows)); err != nil {
		return err
	}
	if settled != nil {
		return settled
	}
	st.done("all %d are as they should be", len(m.flows))
	return nil
}

func withPolicies(ctx context.Context, st *stage, s *shop) error {
	st.scene("Eight NetworkPolicies")
	st.say("Nobody in the shop may talk, except: client to web, web to api, api to db, cache and")
	st.say("the bank (203.0.113.0/25), and monitoring to everybody's metrics, port 9100. Any pod")
	st.say("may talk to itself.")
	start := time.Now()
	if err := errors.Join(s.apply("policies.yaml"), s.apply("web-to-api.yaml")); err != nil {
		return err
	}
	first, err := s.flow("client", "db:5432")
	if err != nil {
		return err
	}
	inForce, err := gone(ctx, first.Flow)
	if err != nil {
		return err
	}
	st.done("written to podwalld's directory, and in force %s later", ms(inForce.Sub(start)))
	return s.show(ctx, st, false)
}

// gone tries a connection again and again, until one gets no answer within a
// moment, and returns when that one was begun.
func gone(ctx context.Context, f lab.Flow) (time.Time, error) {
	for end := time.Now().Add(patience); ; {
		start := time.Now()
		try, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		err := f.Try(try)
		cancel()
		switch {
		case err != nil:
			return start, ctx.Err()
		case start.After(end):
			return start, errors.New("the policy is not in force")
		}
	}
}

func readIt(ctx context.Context, st *stage, s *shop) error {
	st.scene("Reading what is in force")
	for _, args := range []string{
		"get pods",
		"inspect shop/api",
		"explain --from shop/web --to shop/api --port 8080",
		"explain --from shop/client --to shop/db --port 5432",
	} {
		out, err := s.node.Policyctl(ctx, strings.Fields(args)...)
		if err != nil {
			return err
		}
		st.shell("policyctl "+args, out)
	}
	rules, err := lab.Rules(ctx, s.pods["api"])
	if err != nil {
		return err
	}
	st.say("And in the kernel, inside the pod shop/api, where the rules stand:")
	st.shell("nft list chain inet podwall eth0/ingress", excerpt(rules, "chain eth0/ingress"))
	return nil
}

// excerpt returns the block of a ruleset that begins with a header.
func excerpt(rules, header string) string {
	_, rest, ok := strings.Cut(rules, "\t"+header+" {\n")
	if !ok {
		return rules
	}
	body, _, _ := strings.Cut(rest, "\n\t}")
	return header + " {\n" + strings.ReplaceAll(body, "\t\t", "    ") + "\n}"
}

func takeBack(ctx context.Context, st *stage, s *shop) error {
	st.scene("A permission is taken back while a connection is open")
	f, err := s.flow("web", "api:8080")
	if err != nil {
		return err
	}
	c, err := newStream(ctx, f.Flow)
	if err != nil {
		return err
	}
	defer func() { _ = c.conn.Close() }()
	time.Sleep(500 * time.Millisecond)
	st.say("web has a connection to api open, and says something every millisecond.")
	st.say("%d bytes have come back. Now the policy web-to-api is deleted …", c.bytes())

	start := time.Now()
	if err := s.node.RemoveManifest("web-to-api.yaml"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last, err := c.silent(ctx, 200*time.Millisecond)
	if err != nil {
		return err
	}
	before := c.bytes()
	time.Sleep(time.Second)
	if after := c.bytes(); after != before {
		return fmt.Errorf("%d bytes came back after the connection had stopped", after-before)
	}
	st.done("the last byte came back %s after the file was gone; 0 bytes in the second since", ms(last.Sub(start)))

	if err := s.apply("web-to-api.yaml"); err != nil {
		return err
	}
	if err := c.resumes(ctx); err != nil {
		return err
	}
	st.done("the policy is back, and the same connection goes on")
	return nil
}

func killDaemon(ctx context.Context, st *stage, s *shop) error {
	st.scene("The daemon is killed")
	pid := s.node.Pid()
	if err := s.node.Kill(); err != nil {
		return err
	}
	st.say("kill -9 %d: podwalld is gone. The rules are the kernel's:", pid)
	m, err := s.matrix(wanted, false)
	if err != nil {
		return err
	}
	if err := lab.Settle(ctx, m.flows); err != nil {
		return err
	}
	st.done("all %d connections are still allowed or denied as before", len(m.flows))

	st.say("a new pod waits for the next podwalld, which does not come:")
	_, err = s.node.AddPod(ctx, "shop", "late")
	var refused *types.Error
	if !errors.As(err, &refused) || refused.Code != types.ErrTryAgainLater {
		return fmt.Errorf("a new pod without podwalld: want CNI error %d, got %w", types.ErrTryAgainLater, err)
	}
	st.done("a new pod does not start without its rules: CNI error %d, try again later", refused.Code)

	start := time.Now()
	if err := s.node.Start(ctx); err != nil {
		return err
	}
	st.done("podwalld is back after %s", ms(time.Since(start)))
	if err := s.open(ctx, "late"); err != nil {
		return err
	}
	f, err := s.flow("client", "late:80")
	if err != nil {
		return err
	}
	if err := lab.Settle(ctx, append(m.flows, f)); err != nil {
		return err
	}
	st.done("the same pod starts now, isolated by default-deny")
	return nil
}

func leave(ctx context.Context, st *stage, s *shop) error {
	st.scene("Closing time")
	for _, sb := range s.pods {
		if err := s.node.DelPod(ctx, sb); err != nil {
			return err
		}
	}
	st.done("all %d pods are deleted", len(s.pods))
	start := time.Now()
	if err := s.node.Stop(); err != nil {
		return err
	}
	st.done("podwalld stopped in %s", ms(time.Since(start)))
	return s.node.Close()
}

// ms is a duration as people read it.
func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond)) }
