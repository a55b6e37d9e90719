// Package doctor says what a host can do for the bridge, with the cause and the remedy of what it cannot.
package doctor
