// Package report tells of calls: in metrics, as a trace and as a log line, off the calls' way.
package report
