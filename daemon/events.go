package main

import (
	"path/filepath"
	"slices"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/events"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// openEvents makes the Hub of what rules log. Without a place to keep it, it is
// forgotten with the daemon, which works all the same.
func (d *daemon) openEvents() error {
	hub, note, err := events.New(filepath.Join(d.cfg.StateDir, "events"))
	if err != nil {
		note = err
		hub, _, err = events.New("")
	}
	if err != nil {
		return err
	}
	if note != nil {
		d.log.Warn("events of the time before are missing, or those to come are not kept", "error", note)
	}
	hub.Log, hub.Name, hub.Counters = d.log, d.keeper.End, nft.Counters
	d.events, d.keeper.Listener = hub, hub
	d.keeper.SetLogging(logging(d.cfg))
	return nil
}

// logging is what cfg says about it.
func logging(cfg daemonconf.Config) ruleset.Logging {
	return ruleset.Logging{
		Drops:   slices.Contains(cfg.Events, daemonconf.EventsDrops),
		Accepts: slices.Contains(cfg.Events, daemonconf.EventsAccepts),
		Rate:    uint32(cfg.EventRate),
		Burst:   uint32(cfg.EventBurst),
	}
}
