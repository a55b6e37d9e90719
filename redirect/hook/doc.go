// Package hook redirects in the kernel: programs on connect() bring connections for IMDS to the
// bridge, and record whose they are.
package hook
