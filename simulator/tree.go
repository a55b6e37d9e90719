package simulator

import (
	"slices"
	"strings"
	"time"
)

// A Tree is everything an instance serves below /latest. It does not change once built, so that
// several simulators may share one.
type Tree struct {
	root *node
}

// node is a directory if it has children, else a leaf.
type node struct {
	children map[string]*node
	// listed is the line in the parent's list: mostly the name, with a slash after directories.
	listed string
	// content is a leaf's value at a time; credentials and their kin move with it.
	content func(now time.Time) []byte
	// userData is served as bytes that may be asked for in ranges.
	userData bool
	// tags marks the directory that the option InstanceMetadataTags shows or hides.
	tags bool
}

func (n *node) directory() bool { return n.children != nil }

// lookup returns the node at a path below /latest, or nil.
func (t *Tree) lookup(path []string, tags bool) *node {
	n := t.root
	for _, name := range path {
		n = n.children[name]
		if n == nil || n.tags && !tags {
			return nil
		}
	}
	return n
}

// value returns the text of a leaf, or "" if there is none; path is written with slashes.
func (t *Tree) value(path string) string {
	n := t.lookup(strings.Split(path, "/"), true)
	if n == nil || n.directory() {
		return ""
	}
	return string(n.content(time.Time{}))
}

// list is what the service answers for a directory: one child a line, sorted, no newline at the end.
//
// The missing last newline is seen in jtblin/aws-mock-metadata issue 3: Content-Length 153 for
// fourteen dates and "latest".
func (n *node) list(tags bool) []byte {
	var lines []string
	for _, child := range n.children {
		if !child.tags || tags {
			lines = append(lines, child.listed)
		}
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, "\n"))
}

// versions is the list at "/", as published in a capture of 2024; every one serves the same tree here.
var versions = []string{
	"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01",
	"2008-09-01", "2009-04-04", "2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05",
	"2015-10-20", "2016-04-19", "2016-06-30", "2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24",
	"2019-10-01", "2020-10-27", "2021-01-03", "2021-03-23", "2021-07-15", "2022-09-24", "2024-04-11",
	"latest",
}
