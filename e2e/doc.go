// Package e2e tests the binary as its users meet it: with clients that nobody here wrote, through the
// kernel hook, in namespaces and cgroups made for each test. It needs root.
package e2e
