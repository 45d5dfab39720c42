"""Go's programs for the table of the storage SDK; gophernotes, which interprets, has no SDK."""

from __future__ import annotations

from tests.languages.storage_programs.programs import StoragePrograms

BEGIN = """package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"era/storage"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

var a []any

func must[V any](value V, err error) V {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func text(index int) string { return a[index].(string) }

func number(index int) int { return int(a[index].(float64)) }

func metadata(index int) storage.Option { return storage.Metadata(a[index].(map[string]any)) }

func texts(index int) storage.Option {
	texts := map[string]string{}
	for name, value := range a[index].(map[string]any) {
		texts[name] = value.(string)
	}
	return storage.Metadata(texts)
}

func bytesAt(index int) []byte { return must(hex.DecodeString(text(index))) }

func show(value any) { fmt.Println(string(must(json.Marshal(value)))) }

func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}

var _ = []any{bytes.Repeat, strconv.Itoa, strings.ToLower, sync.NewCond, errors.New}

func main() {
	check(json.Unmarshal([]byte(os.Getenv("ARGUMENTS")), &a))
"""


def shows(*lines: str) -> str:
    """Returns a program; it shows the value of the last line."""
    *first, last = lines
    return BEGIN + "\n".join([*first, f"show({last})", "}", ""])


PROGRAMS = StoragePrograms(
    column="go",
    language="go",
    kv_set=shows("check(storage.KV.Set(text(0), text(1), text(2), metadata(3)))", "true"),
    kv_get=shows(
        "shown := []any{}",
        "for _, key := range a[1].([]any) {",
        "value, found, err := storage.KV.Get(text(0), key.(string))",
        "check(err)",
        "if found { shown = append(shown, value) } else { shown = append(shown, nil) }",
        "}",
        "shown",
    ),
    kv_list=shows(
        "shown := []any{}",
        "keys := must(storage.KV.List(text(0), storage.Prefix(text(1)), storage.Limit(number(2))))",
        "for _, one := range keys { shown = append(shown, []any{one.Name, one.Metadata}) }",
        "shown",
    ),
    kv_delete=shows("check(storage.KV.Delete(text(0), text(1)))", "true"),
    d1_exec=shows(
        "whole := must(strconv.ParseInt(text(4), 10, 64))",
        "must(storage.D1.Exec(text(0), text(1), text(2), bytesAt(3), whole)).Meta.Changes",
    ),
    d1_query=shows(
        "shown := []any{}",
        "for _, one := range must(storage.D1.Query(text(0), text(1))) {",
        'blob := hex.EncodeToString(one["b"].([]byte))',
        'shown = append(shown, []any{one["t"], blob, strconv.FormatInt(one["i"].(int64), 10)})',
        "}",
        "shown",
    ),
    r2_put=shows(
        "content := bytes.Repeat(bytesAt(2), number(3))",
        "check(storage.R2.PutFrom(text(0), text(1), bytes.NewReader(content), texts(4)))",
        "true",
    ),
    r2_get=shows(
        "shown := []any{}",
        "for _, key := range a[1].([]any) {",
        "content, found, err := storage.R2.Get(text(0), key.(string))",
        "check(err)",
        "if found { shown = append(shown, sum(content)) } else { shown = append(shown, nil) }",
        "}",
        "shown",
    ),
    r2_list=shows(
        "shown := []any{}",
        "for _, one := range must(storage.R2.List(text(0))) {",
        "shown = append(shown, []any{one.Key, one.Size})",
        "}",
        "shown",
    ),
    r2_delete=shows("check(storage.R2.Delete(text(0), text(1)))", "true"),
    fails=shows(
        "_, _, err := storage.KV.Get(text(0), `k`)",
        "var problem *storage.Error",
        "if !errors.As(err, &problem) { panic(err) }",
        "[]any{problem.Code, problem.Status, strings.ToLower(problem.Message[:13])}",
    ),
    at_once=shows(
        "var waiting sync.WaitGroup",
        "for n := range number(1) {",
        "name := `k` + strconv.Itoa(n)",
        "waiting.Go(func() { check(storage.KV.Set(text(0), name, name)) })",
        "}",
        "waiting.Wait()",
        "true",
    ),
)
