package software

import "github.com/imds-bridge/imds-bridge/caller/software/rpmdb"

// rpmDatabases is where databases are: in /var/lib until they moved, under the name of their form.
var rpmDatabases = []string{
	"/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite",
	"/var/lib/rpm/Packages.db", "/usr/lib/sysimage/rpm/Packages.db",
	"/var/lib/rpm/Packages", "/usr/lib/sysimage/rpm/Packages",
}

func rpmOwner(t tree, names []string) (Package, error) {
	for _, name := range rpmDatabases {
		f, err := t.open(name)
		if isAbsent(err) {
			continue
		}
		if err != nil {
			return Package{}, err
		}
		p, found, err := rpmdb.Owner(t.budget.ctx, f, f.size, names...)
		f.close()
		if err != nil || found {
			return Package{"rpm", p.Name, p.Version}, err
		}
	}
	return Package{}, nil
}
