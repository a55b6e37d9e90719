// Package redirect brings connections for IMDS to the bridge, and says whose they are.
package redirect
