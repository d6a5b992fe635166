// Package matrix says who may reach whom: for every pair of pods the verdict on
// each port that somebody mentions, and on all others.
//
//	pods ──▶ explain, pair by pair ──▶ fold pods of one owner ──▶ Matrix
//
// # Contract
//
// Each verdict is what package explain says about that pair and port. Pods share a
// row only where nothing tells them apart: one owner, the same labels, and the same
// decisions about all other pods and each other.
//
// It is pure. A Survey can be made in small steps, for those who hold a lock
// meanwhile; the World must not change before it is done.
package matrix
