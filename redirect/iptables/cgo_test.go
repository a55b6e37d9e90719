//go:build cgo

package iptables

// hasCgo says that Go does not know all threads, and so drops no capabilities.
const hasCgo = true
