//go:build !cgo

package iptables

const hasCgo = false
