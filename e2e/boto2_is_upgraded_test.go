package e2e

import "testing"

// debianPython is the interpreter that Debian's packages are for: another one may come first in PATH.
const debianPython = "/usr/bin/python3"

func TestBoto2IsUpgraded(t *testing.T) {
	t.Parallel()
	checkUpgraded(t, client{args: []string{debianPython, "clients/boto2/credentials.py"}, agent: "Python-urllib/3."})
}
