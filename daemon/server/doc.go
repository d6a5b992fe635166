// Package server answers the plugin and policyctl on podwalld's unix socket.
//
// # Contract
//
// Only root may talk to it: the socket has mode 0600 in a directory that only
// root can write to, and each peer's credentials are checked. Input is bounded
// and untrusted all the same: a client that says nothing, too much or nonsense
// loses its connection and costs the others nothing. Every request is answered
// or its connection closed within a fixed time.
package server
