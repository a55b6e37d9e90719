package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// kernel is an unpacked one, with its modules and what depmod says of them.
type kernel struct {
	version string // of the package
	image   string
	modules string // directory: lib/modules/<release>
}

// fetch returns the kernels of the machines, by Debian's release. Those that are in the cache need
// no network, unless newer ones are asked for.
func fetch(ctx context.Context, o options, due []machine) (map[string]kernel, error) {
	kernels := make(map[string]kernel)
	for _, m := range due {
		if _, ok := kernels[m.release]; ok {
			continue
		}
		k, err := cached(o.cache, m.release)
		if errors.Is(err, fs.ErrNotExist) || o.update {
			if err := download(ctx, o.cache, m.release); err != nil {
				return nil, unavailable(o.cache, m.release, err)
			}
			k, err = cached(o.cache, m.release)
		}
		if err != nil {
			return nil, err
		}
		kernels[m.release] = k
	}
	return kernels, nil
}

// unavailable says what to do without a kernel. Releases leave the archive some years after their end.
func unavailable(cache, release string, cause error) error {
	return fmt.Errorf(`download the kernel of Debian's %s: %w
Is the archive within reach? If it has this kernel no longer, copy %s from a machine that has it,
or name another release than %[1]s in e2e/kernels/table.go`, release, cause, filepath.Join(cache, release))
}

// cached finds a release's kernel in the cache: cache/<release>/<version>.
func cached(cache, release string) (kernel, error) {
	versions, err := os.ReadDir(filepath.Join(cache, release))
	if err != nil {
		return kernel{}, fmt.Errorf("look for the kernel of %s: %w", release, err)
	}
	for _, v := range versions {
		dir := filepath.Join(cache, release, v.Name())
		images, _ := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
		if len(images) == 0 { // since Linux 7
			images, _ = filepath.Glob(filepath.Join(dir, "lib/modules/*/vmlinuz"))
		}
		modules, _ := filepath.Glob(filepath.Join(dir, "lib/modules/*/modules.dep.bin"))
		if len(images) == 1 && len(modules) == 1 {
			return kernel{version: v.Name(), image: images[0], modules: filepath.Dir(modules[0])}, nil
		}
	}
	return kernel{}, fmt.Errorf("no whole kernel of %s in %s: %w", release, cache, fs.ErrNotExist)
}

// download puts the newest kernel of a release into the cache, in place of the one that is there.
func download(ctx context.Context, cache, release string) error {
	note("download the kernel of Debian's %s", release)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	// Below the cache, so that what is whole gets there by a rename.
	scratch, err := os.MkdirTemp(cache, ".download")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	a, err := newAPT(ctx, scratch, release)
	if err != nil {
		return err
	}
	version, packages, err := a.kernel(ctx)
	if err != nil {
		return err
	}
	to := filepath.Join(cache, release, version)
	if _, err := os.Stat(to); err == nil {
		return nil // as new as can be
	}
	unpacked := filepath.Join(scratch, "unpacked")
	for _, p := range packages {
		file, err := a.download(ctx, p)
		if err != nil {
			return fmt.Errorf("package %s of kernel %s: %w", p, version, err)
		}
		if _, err := output(ctx, scratch, "dpkg-deb", "-x", file, unpacked); err != nil {
			return err
		}
	}
	if err := tidy(ctx, unpacked); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(cache, release)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(unpacked, to)
}

// tidy makes the modules of all releases lie in lib/modules, and indexes them.
func tidy(ctx context.Context, root string) error {
	if merged := filepath.Join(root, "usr/lib/modules"); exists(merged) {
		if err := os.MkdirAll(filepath.Join(root, "lib"), 0o755); err != nil {
			return err
		}
		if err := os.Rename(merged, filepath.Join(root, "lib/modules")); err != nil {
			return err
		}
	}
	modules, err := os.ReadDir(filepath.Join(root, "lib/modules"))
	if err != nil || len(modules) != 1 {
		return fmt.Errorf("want the modules of one kernel: %v, %w", modules, err)
	}
	_, err = output(ctx, root, "depmod", "-b", root, modules[0].Name())
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
