// Package admin serves the operator: health, readiness, metrics and profiles.
//
// It is not for the network: it listens on loopback or on a unix socket for the user alone, answers
// GET and HEAD only, and on TCP only if the request names this host, so that a web page or a name
// rebound to loopback cannot read it.
package admin
