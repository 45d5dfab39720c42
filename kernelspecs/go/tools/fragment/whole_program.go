package fragment

import (
	"fmt"
	"slices"

	"era/tools/build"
)

// complete returns the text of the whole program; packages that it does not use are not imported.
func (c *cell) complete(k *checker, stateDir, next string) (string, error) {
	all := slices.Clone(c.state.Imports)
	defer func() { c.state.Imports = mergeImports(all, c.state.Imports) }()
	old := c.rewritten.oldVariables()
	made := func() *source { return c.program(c.rewritten.result, old, stateDir, next) }
	for {
		found, _, err := k.checkWithImports(c, made)
		if err != nil {
			return "", err
		}
		all = mergeImports(all, c.state.Imports)
		unusedImports := k.unusedImports(c, found)
		hard := slices.DeleteFunc(found.errors, isUnusedImport)
		if c.refuseKnown(k, hard) {
			continue
		}
		if len(hard) > 0 {
			return "", k.report(hard)
		}
		if len(unusedImports) == 0 {
			if c.findKnown(found) {
				continue
			}
			c.noteLost(found)
			return made().String(), nil
		}
		c.state.Imports = slices.DeleteFunc(c.state.Imports, func(i importSpec) bool {
			return slices.Contains(unusedImports, i)
		})
	}
}

// unusedImports returns the imports that errors of the type checker say are not used.
func (k *checker) unusedImports(c *cell, found *checked) (specs []importSpec) {
	for _, e := range found.errors {
		if !isUnusedImport(e) {
			continue
		}
		for _, spec := range found.file.Imports {
			if spec.Pos() <= e.Pos && e.Pos <= spec.End() {
				path := spec.Path.Value[1 : len(spec.Path.Value)-1]
				specs = append(specs, importSpec{spec.Name.Name, path})
			}
		}
	}
	return specs
}

func mergeImports(all, more []importSpec) []importSpec {
	merged := slices.Clone(all)
	for _, spec := range more {
		if !slices.Contains(merged, spec) {
			merged = append(merged, spec)
		}
	}
	return merged
}

// importError tells that a package cannot be imported.
func (k *checker) importError(c *cell, path string, err error) error {
	return &build.Error{Text: fmt.Sprintf("./%s: %v\n", c.name, err)}
}
