// Package build turns Go source into the program that this process becomes.
package build

import (
	"os"
	"path/filepath"
	"strings"
)

// Std is the standard library as archives, and the tools that use them.
type Std struct {
	dir      string
	archives map[string]string // by import path; also what only the library itself may import
}

// OpenStd reads what mkstd has written into a directory.
func OpenStd(dir string) (*Std, error) {
	text, err := os.ReadFile(filepath.Join(dir, "importcfg"))
	if err != nil {
		return nil, err
	}
	std := &Std{dir: dir, archives: map[string]string{}}
	for line := range strings.Lines(string(text)) {
		entry, _ := strings.CutPrefix(strings.TrimSpace(line), "packagefile ")
		if path, file, ok := strings.Cut(entry, "="); ok {
			std.archives[path] = file
		}
	}
	return std, nil
}

// Archive returns the file of a package that programs may import, or "".
func (s *Std) Archive(path string) string {
	if IsInternal(path) {
		return ""
	}
	return s.archives[path]
}

// AnyArchive returns the file of any package of the library, or "".
func (s *Std) AnyArchive(path string) string { return s.archives[path] }

// Paths returns the import paths that programs may use.
func (s *Std) Paths() []string {
	var paths []string
	for path := range s.archives {
		if !IsInternal(path) {
			paths = append(paths, path)
		}
	}
	return paths
}

func (s *Std) file(name string) string { return filepath.Join(s.dir, name) }

// IsInternal reports whether only the library itself may import a package.
func IsInternal(path string) bool {
	return strings.HasPrefix(path, "vendor/") || path == "era/cellrt" ||
		strings.Contains("/"+path+"/", "/internal/")
}
