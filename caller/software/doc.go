// Package software finds what a process runs: the libraries for AWS that it was built with or has
// at hand, with their versions, and the package of the distribution that its executable came with.
//
// It reads files as the process sees them, from its root down, and nothing else of the host. What it
// reads is another's and may be hostile: it is opened without following links out of that root,
// without waiting, and within a limit of bytes, entries and time. Nothing is written or run.
package software
