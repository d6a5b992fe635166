// Package api is the conversation between podwalld and those who talk to it on
// its node: the CNI plugin and policyctl.
//
// A message is a frame on a unix stream socket: four bytes of length, big
// endian, then that many bytes: a line of JSON, the Envelope, and its body, JSON
// too. A client sends one request and reads one answer, except for ADD, which is
// a conversation on one connection:
//
//	plugin                              podwalld
//	  add {attachment}, namespace fd ──▶
//	                                 ◀── rules {rule set}
//	  (applies it)
//	  applied {epoch, generation}    ──▶
//	                                 ◀── done {}     durable and up to date
//
// A conversation that breaks leaves nothing that a later ADD or DEL of the same
// attachment does not put right.
//
// # Contract
//
// Whatever comes from the socket is untrusted: frames are bounded, unknown
// versions are refused by name, and no input makes this package panic. Every
// call ends at its context's deadline.
package api
