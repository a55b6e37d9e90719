package software

import (
	"context"
	"errors"
)

// errBudget ends a look at a process that has more to read than one may cost.
var errBudget = errors.New("more to read than is allowed")

const (
	// librariesBytes and packagesBytes are what one look reads at most. A database of rpm is read
	// whole, and has 100 MB on a large host; lists of dpkg have 30.
	librariesBytes = 64 << 20
	packagesBytes  = 256 << 20
	// maxOpens and maxEntries bound the files opened and the directory entries seen.
	maxOpens   = 1 << 16
	maxEntries = 1 << 17
)

// budget is what is left to read, for one look.
type budget struct {
	ctx                   context.Context
	bytes, opens, entries int
}

func newBudget(ctx context.Context, bytes int) *budget {
	return &budget{ctx, bytes, maxOpens, maxEntries}
}

func (b *budget) read(n int) error { return b.take(&b.bytes, n) }
func (b *budget) open() error      { return b.take(&b.opens, 1) }
func (b *budget) entry() error     { return b.take(&b.entries, 1) }

func (b *budget) take(left *int, n int) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if *left < n {
		return errBudget
	}
	*left -= n
	return nil
}
