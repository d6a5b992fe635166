package kube

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// A uid is an object's UID in few bytes: a UUID as it is, of whatever else there may
// be a digest, which is of no version that UUIDs have. The zero uid is none.
type uid [16]byte

// uidOf is the uid of a UID as the API writes it.
func uidOf(text string) uid {
	var u uid
	if text == "" {
		return u
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err == nil && copy(u[:], b) == len(b) && u.String() == text {
		return u
	}
	u = uid(digestOf([]byte(text)))
	u[6] &= 0x0f
	return u
}

// String is the UID as the API writes it; empty if only a digest is known.
func (u uid) String() string {
	if u[6]>>4 == 0 {
		return ""
	}
	s := hex.EncodeToString(u[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// A digest stands for content.
type digest [16]byte

func digestOf(parts ...[]byte) digest {
	h := sha256.New()
	for _, b := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	return digest(h.Sum(nil)[:len(digest{})])
}

func (d digest) first() []byte { return d[:8] }

// sumOf tells contents apart.
func sumOf(content []byte) uint64 { return binary.BigEndian.Uint64(digestOf(content).first()) }
