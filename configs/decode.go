package configs

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/pgproxy/pgproxy/failover/agent"
	"github.com/pgproxy/pgproxy/proxy"
	"github.com/pgproxy/pgproxy/watchdog"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	plainKey     = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// decoder fills a Config from the syntax tree. It walks the tree itself because the
// library's decoder stops at the first fault.
//
// A value that does not fit leaves the default in place and its path in faulty.
type decoder struct {
	file   *File
	faulty map[string]bool
}

// fault reports a fault at the place of path, which must have been recorded.
func (d *decoder) fault(path, format string, args ...any) {
	d.faulty[path] = true
	d.file.AddFault(path, format, args...)
}

// unread tells whether the value of path, or of something around it, did not fit.
func (d *decoder) unread(path string) bool {
	for ; path != ""; path = parent(path) {
		if d.faulty[path] {
			return true
		}
	}
	return d.faulty[""]
}

// faultHere is fault for a key that is none of ours, or the second of its name.
func (d *decoder) faultHere(p position, path, format string, args ...any) {
	d.file.Faults = append(d.file.Faults, Fault{
		File: d.file.Name, Line: p.line, Column: p.column, Path: path, Message: fmt.Sprintf(format, args...),
	})
}

func (d *decoder) document(doc *ast.File, c *Config) {
	if len(doc.Docs) == 0 || doc.Docs[0].Body == nil {
		d.fault("", "the file is empty")
		return
	}
	if len(doc.Docs) > 1 {
		p := position{1, 1}
		if tk := doc.Docs[1].Start; tk != nil {
			p = position{tk.Position.Line, tk.Position.Column}
		}
		d.faultHere(p, "", "a second YAML document begins here; the file must be one")
	}
	d.value(doc.Docs[0].Body, "", reflect.ValueOf(c).Elem())
}

// value decodes n into v. The position of path has been recorded.
func (d *decoder) value(n ast.Node, path string, v reflect.Value) {
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.TagNode:
		d.fault(path, "anchors and tags are not supported")
		return
	case *ast.AliasNode:
		d.fault(path, `an unquoted * begins a YAML alias, which is not supported; put the value in quotes: "*:9999"`)
		return
	case *ast.NullNode:
		switch v.Kind() {
		case reflect.Struct, reflect.Pointer, reflect.Slice, reflect.Map:
			// A section whose keys are all commented out.
		default:
			d.fault(path, `has no value; remove the key, or write ""`)
		}
		return
	case *ast.LiteralNode:
		d.value(n.Value, path, v)
		return
	}
	switch {
	case v.Type() == durationType:
		d.duration(n, path, v)
	case v.Kind() == reflect.Pointer:
		elem := fresh(v.Type().Elem())
		d.value(n, path, elem)
		v.Set(elem.Addr())
	case v.Kind() == reflect.Struct:
		d.mapping(n, path, v)
	case v.Kind() == reflect.Slice:
		d.sequence(n, path, v)
	case v.Kind() == reflect.String:
		d.string(n, path, v)
	case v.Kind() == reflect.Int, v.Kind() == reflect.Int64:
		d.int(n, path, v)
	case v.Kind() == reflect.Bool:
		d.bool(n, path, v)
	case v.Kind() == reflect.Map:
		d.texts(n, path, v)
	default:
		panic(fmt.Sprintf("BUG: the configuration has a field of type %v at %s", v.Type(), path))
	}
}

// fresh returns a settable value with the defaults of its type.
func fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch p := v.Addr().Interface().(type) {
	case *proxy.BackendConfig:
		*p = defaultBackend()
	case *agent.Config:
		*p = agent.Default()
	case *watchdog.Config:
		*p = watchdog.Default()
	}
	return v
}

func (d *decoder) mapping(n ast.Node, path string, v reflect.Value) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.fault(path, "want keys and values, got %s", kindOf(n))
		return
	}
	fields := fieldsOf(v.Type())
	seen := make(map[string]position, len(m.Values))
	for _, entry := range m.Values {
		p := positionOf(entry.Key)
		key, ok := keyName(entry.Key)
		if !ok {
			d.faultHere(p, path, "a key must be a plain word")
			continue
		}
		keyPath := join(path, key)
		index, known := fields[key]
		if !known {
			d.faultHere(p, keyPath, "%s", unknownKey(key, fields))
			continue
		}
		if first, again := seen[key]; again {
			d.faultHere(p, keyPath, "duplicate key; the first is in line %d", first.line)
			continue
		}
		seen[key] = p
		d.file.at[keyPath] = p
		d.value(entry.Value, keyPath, v.Field(index))
	}
}

func (d *decoder) sequence(n ast.Node, path string, v reflect.Value) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fault(path, "want a list, got %s", kindOf(n))
		return
	}
	v.SetZero() // an empty list is none
	for i, item := range s.Values {
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		d.file.at[itemPath] = positionOf(item)
		elem := fresh(v.Type().Elem())
		if _, null := item.(*ast.NullNode); null {
			d.fault(itemPath, "the item is empty")
		} else {
			d.value(item, itemPath, elem)
		}
		// An item that does not fit stays in the list, so that the others keep their index.
		v.Set(reflect.Append(v, elem))
	}
}

func (d *decoder) string(n ast.Node, path string, v reflect.Value) {
	switch n := n.(type) {
	case *ast.StringNode:
		v.SetString(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		d.fault(path, "want a text, got %s; put it in quotes", kindOf(n))
	default:
		d.fault(path, "want a text, got %s", kindOf(n))
	}
}

// int takes decimal numbers only: what 010 means depends on the YAML version.
func (d *decoder) int(n ast.Node, path string, v reflect.Value) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		d.fault(path, "want a whole number, got %s", kindOf(n))
		return
	}
	text := i.Token.Value
	value, err := strconv.ParseInt(text, 10, v.Type().Bits())
	if err != nil || strconv.FormatInt(value, 10) != text {
		d.fault(path, "want a whole number in decimal digits, got %s", text)
		return
	}
	v.SetInt(value)
}

func (d *decoder) bool(n ast.Node, path string, v reflect.Value) {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		d.fault(path, "want true or false, got %s", kindOf(n))
		return
	}
	v.SetBool(b.Value)
}

// texts reads a mapping whose keys are the file's own.
func (d *decoder) texts(n ast.Node, path string, v reflect.Value) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.fault(path, "want keys and values, got %s", kindOf(n))
		return
	}
	all := reflect.MakeMapWithSize(v.Type(), len(m.Values))
	for _, entry := range m.Values {
		p := positionOf(entry.Key)
		key, ok := keyName(entry.Key)
		if !ok {
			d.faultHere(p, path, "a key must be a plain word")
			continue
		}
		keyPath := join(path, key)
		if all.MapIndex(reflect.ValueOf(key)).IsValid() {
			d.faultHere(p, keyPath, "duplicate key")
			continue
		}
		d.file.at[keyPath] = p
		value := reflect.New(v.Type().Elem()).Elem()
		d.string(entry.Value, keyPath, value)
		all.SetMapIndex(reflect.ValueOf(key), value)
	}
	v.Set(all)
}

func (d *decoder) duration(n ast.Node, path string, v reflect.Value) {
	const want = "want a duration such as 500ms, 10s or 1m30s"
	var text string
	switch n := n.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.IntegerNode:
		text = n.Token.Value // 0 is one; the others lack a unit
	default:
		d.fault(path, want+", got %s", kindOf(n))
		return
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		d.fault(path, want+", got %q", text)
		return
	}
	v.SetInt(int64(value))
}

// kindOf names a node as the writer of the file sees it.
func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return "the text " + strconv.Quote(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + n.GetToken().Value
	case *ast.BoolNode:
		return n.GetToken().Value
	default:
		return n.Type().String()
	}
}

// keyName returns the text of a key.
func keyName(k ast.MapKeyNode) (string, bool) {
	s, ok := k.(*ast.StringNode)
	if !ok {
		return "", false
	}
	return s.Value, true
}

// positionOf returns where a node begins. A mapping's own token is its first colon.
func positionOf(n ast.Node) position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	tk := n.GetToken()
	if tk == nil || tk.Position == nil {
		return position{1, 1}
	}
	return position{tk.Position.Line, tk.Position.Column}
}

// fieldsOf maps the keys of a section to the indexes of their fields.
func fieldsOf(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" {
			fields[key] = i
		}
	}
	return fields
}

func join(path, key string) string {
	if !plainKey.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
