// Package cellrt keeps the variables of fragments.
package cellrt
