package bypass

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// From linux/pkt_sched.h, pkt_cls.h and tc_act/tc_mirred.h.
const (
	sizeofTCMsg   = 20
	ingressParent = 0xfffffff2 // the ingress side of a qdisc of kind ingress or clsact
	egressParent  = 0xfffffff3 // the egress side of one of kind clsact

	tcaKind, tcaOptions       = 1, 2
	tcaActKind, tcaActOptions = 1, 2
	tcaMirredParms            = 2
	sizeofMirred              = 28 // struct tc_mirred
	egressRedirect            = 1
	ingressRedirect           = 3
)

// actions is the attribute that holds a filter's actions, by the filter's kind.
var actions = map[string]uint16{"basic": 3, "bpf": 1, "flower": 3, "fw": 4, "matchall": 2, "u32": 7}

// redirects returns the indexes of the interfaces to which filters redirect what
// arrives at the interface of the given index, or leaves by it.
func redirects(c *netlink.Conn, index, side uint32) (map[uint32]bool, error) {
	tcm := make([]byte, sizeofTCMsg)
	binary.NativeEndian.PutUint32(tcm[4:], index)
	binary.NativeEndian.PutUint32(tcm[12:], side)
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETTFILTER, Flags: netlink.Request | netlink.Dump},
		Data:   tcm,
	})
	// A kernel without traffic control redirects nothing.
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	to := map[uint32]bool{}
	for _, m := range msgs {
		targets, err := parseFilter(m.Data)
		if err != nil {
			return nil, err
		}
		for _, t := range targets {
			to[t] = true
		}
	}
	return to, nil
}

// parseFilter reads what follows the header of RTM_NEWTFILTER, and returns the
// indexes of the interfaces that the filter redirects to.
func parseFilter(data []byte) (targets []uint32, err error) {
	if len(data) < sizeofTCMsg {
		return nil, fmt.Errorf("message of %d bytes: want at least %d", len(data), sizeofTCMsg)
	}
	d, err := netlink.NewAttributeDecoder(data[sizeofTCMsg:])
	if err != nil {
		return nil, err
	}
	var acts uint16
	for d.Next() {
		switch d.Type() {
		case tcaKind: // comes before the options
			acts = actions[d.String()]
		case tcaOptions:
			d.Nested(func(options *netlink.AttributeDecoder) error {
				for options.Next() {
					if acts != 0 && options.Type() == acts {
						options.Nested(eachAction(&targets))
					}
				}
				return nil
			})
		}
	}
	return targets, d.Err()
}

// eachAction reads a list of actions, and adds where they redirect to.
func eachAction(targets *[]uint32) func(*netlink.AttributeDecoder) error {
	return func(list *netlink.AttributeDecoder) error {
		for list.Next() {
			list.Nested(func(action *netlink.AttributeDecoder) error {
				kind := ""
				for action.Next() {
					switch {
					case action.Type() == tcaActKind: // comes before the options
						kind = action.String()
					case action.Type() == tcaActOptions && kind == "mirred":
						action.Nested(mirred(targets))
					}
				}
				return nil
			})
		}
		return nil
	}
}

// mirred reads the options of one action of that kind.
func mirred(targets *[]uint32) func(*netlink.AttributeDecoder) error {
	return func(options *netlink.AttributeDecoder) error {
		for options.Next() {
			parms := options.Bytes()
			if options.Type() != tcaMirredParms || len(parms) < sizeofMirred {
				continue
			}
			switch how := binary.NativeEndian.Uint32(parms[20:]); how {
			case egressRedirect, ingressRedirect:
				*targets = append(*targets, binary.NativeEndian.Uint32(parms[24:]))
			}
		}
		return nil
	}
}
