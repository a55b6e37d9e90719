// Package handover passes what a bridge listens with, and what it knows of connections, on to the
// bridge that takes its place: over a socket to one that starts beside it, or through systemd's file
// descriptor store to the one that is started after it.
package handover
