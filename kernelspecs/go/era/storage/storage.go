// Package storage stores values beyond the session.
package storage
