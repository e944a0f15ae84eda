// Writes ../types.tsv: the facts about Kubernetes' Go types that the wire formats, patches and field checks rest on.
//
// Run it in this folder after a change of the served Kubernetes version: go run . extensions.tsv > ../types.tsv
// where extensions.tsv lists, by OpenAPI definition and field, the list and map semantics of the published documents.
package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"

	admission "k8s.io/api/admission/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	aggregator "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

var stable = regexp.MustCompile(`^v[0-9]+$`)

var special = map[string]string{
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":         "time",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":    "microtime",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":     "duration",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":     "fieldsv1",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Verbs":        "strings",
	"k8s.io/api/authentication/v1.ExtraValue":           "strings",
	"k8s.io/api/authorization/v1.ExtraValue":            "strings",
	"k8s.io/api/certificates/v1.ExtraValue":             "strings",
	"k8s.io/apimachinery/pkg/api/resource.Quantity":     "quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":   "intorstring",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":      "raw",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":                         "json",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray":       "schemaorarray",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool":        "schemaorbool",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "schemaorstrings",
}

type field struct {
	name, number, shape, goType, flags string
	facts                              [8]string // list-type, keys, map-type, strategy, merge key, default, enum, required
}
type inline struct {
	number string
	of     string
}
type def struct {
	name, goType string
	mapType      string
	fields       []field
	inlines      []inline
}

var (
	defs    = map[string]*def{}
	ext     = map[string][8]string{}
	sources = map[string]*pkgFacts{}
)

type pkgFacts struct {
	defaults map[string]string   // Type.Field
	enums    map[string][]string // Type
}

// The markers that stand in comments of the API sources.
func facts(pkg string) *pkgFacts {
	if f := sources[pkg]; f != nil {
		return f
	}
	f := &pkgFacts{map[string]string{}, map[string][]string{}}
	sources[pkg] = f
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		panic(err)
	}
	files, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
	fset := token.NewFileSet()
	consts := map[string][]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "zz_") || strings.Contains(file, "generated") {
			continue
		}
		tree, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
		if err != nil {
			panic(err)
		}
		for _, decl := range tree.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range gen.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					doc := gen.Doc.Text() + s.Doc.Text()
					for _, c := range []*ast.CommentGroup{gen.Doc, s.Doc} {
						if c != nil {
							for _, l := range c.List {
								doc += l.Text + "\n"
							}
						}
					}
					if strings.Contains(doc, "+enum") {
						f.enums[s.Name.Name] = []string{}
					}
					if st, ok := s.Type.(*ast.StructType); ok {
						for _, fl := range st.Fields.List {
							if fl.Doc == nil || len(fl.Names) == 0 {
								continue
							}
							for _, l := range fl.Doc.List {
								t := strings.TrimSpace(strings.TrimPrefix(l.Text, "//"))
								if v, ok := strings.CutPrefix(t, "+default="); ok && !strings.HasPrefix(v, "ref(") {
									f.defaults[s.Name.Name+"."+fl.Names[0].Name] = v
								}
							}
						}
					}
				case *ast.ValueSpec:
					if id, ok := s.Type.(*ast.Ident); ok && gen.Tok == token.CONST {
						for _, v := range s.Values {
							if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
								text, _ := strconv.Unquote(lit.Value)
								consts[id.Name] = append(consts[id.Name], text)
							}
						}
					}
				}
			}
		}
	}
	for name := range f.enums {
		values := consts[name]
		sort.Strings(values)
		f.enums[name] = values
	}
	return f
}

func apiName(t reflect.Type) string {
	p := t.PkgPath()
	p = strings.TrimPrefix(p, "k8s.io/")
	return "io.k8s." + strings.ReplaceAll(p, "/", ".") + "." + t.Name()
}

func enumOf(t reflect.Type) string {
	for t.Kind() == reflect.Ptr || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.String || t.PkgPath() == "" || !strings.HasPrefix(t.PkgPath(), "k8s.io/") {
		return ""
	}
	return strings.Join(facts(t.PkgPath()).enums[t.Name()], "|")
}

func shape(t reflect.Type) string {
	if s, ok := special[t.PkgPath()+"."+t.Name()]; ok {
		return s
	}
	switch t.Kind() {
	case reflect.Ptr:
		return shape(t.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int32:
		return "int32"
	case reflect.Int64, reflect.Int:
		return "int64"
	case reflect.Float64:
		return "double"
	case reflect.Uint8:
		return "byte"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + shape(t.Elem())
	case reflect.Map:
		return "{}" + shape(t.Elem())
	case reflect.Struct:
		walk(t)
		return apiName(t)
	case reflect.Interface:
		return "json"
	}
	panic(t.String())
}

func walk(t reflect.Type) {
	name := apiName(t)
	if defs[name] != nil {
		return
	}
	d := &def{name: name, goType: t.String()}
	defs[name] = d
	d.mapType = ext[name+"/."][2]
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		tag := strings.Split(f.Tag.Get("json"), ",")
		if tag[0] == "-" {
			continue
		}
		number := "0"
		if p := strings.Split(f.Tag.Get("protobuf"), ","); len(p) > 1 {
			number = p[1]
		}
		opts := strings.Join(tag[1:], ",")
		if strings.Contains(opts, "inline") || (f.Anonymous && tag[0] == "") {
			ft := f.Type
			for ft.Kind() == reflect.Ptr {
				ft = ft.Elem()
			}
			walk(ft)
			d.inlines = append(d.inlines, inline{number, apiName(ft)})
			continue
		}
		if tag[0] == "" {
			tag[0] = f.Name
		}
		flags := ""
		ft := f.Type
		if ft.Kind() == reflect.Ptr {
			flags += "p"
			ft = ft.Elem()
		}
		if strings.Contains(opts, "omitempty") {
			flags += "e"
		}
		if strings.Contains(opts, "omitzero") {
			flags += "z"
		}
		facts8 := ext[strings.TrimSuffix(name, "Common")+"/"+tag[0]]
		if s := f.Tag.Get("patchStrategy"); s != facts8[3] {
			fmt.Fprintln(os.Stderr, "strategy", name, tag[0], s, facts8[3])
			facts8[3] = s
		}
		if s := f.Tag.Get("patchMergeKey"); s != facts8[4] {
			fmt.Fprintln(os.Stderr, "merge key", name, tag[0], s, facts8[4])
			facts8[4] = s
		}
		src := facts(t.PkgPath())
		facts8[5] = src.defaults[t.Name()+"."+f.Name]
		facts8[6] = enumOf(f.Type)
		if facts8[7] == "required" {
			flags += "r"
		}
		d.fields = append(d.fields, field{tag[0], number, shape(f.Type), ft.String(), flags, facts8})
	}
}

func main() {
	in, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		c := strings.Split(lines.Text(), "\t")
		for len(c) < 10 {
			c = append(c, "")
		}
		var f [8]string
		copy(f[:], c[2:10])
		ext[c[0]+"/"+c[1]] = f
	}
	all := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiext.AddToScheme, aggregator.AddToScheme, admission.AddToScheme, metrics.AddToScheme} {
		if err := add(all); err != nil {
			panic(err)
		}
	}
	kinds := map[schema.GroupVersionKind]string{}
	meta := "k8s.io/apimachinery/pkg/apis/meta/v1"
	for gvk, t := range all.AllKnownTypes() {
		served := stable.MatchString(gvk.Version) || gvk.Group == metrics.GroupName
		if !served || strings.HasPrefix(gvk.Group, "internal") || t.PkgPath() == meta || strings.Contains(t.PkgPath(), "testapigroup") {
			continue
		}
		walk(t)
		kinds[gvk] = apiName(t)
	}
	for _, o := range []any{metav1.Status{}, metav1.DeleteOptions{}, metav1.CreateOptions{}, metav1.UpdateOptions{}, metav1.PatchOptions{},
		metav1.GetOptions{}, metav1.ListOptions{}, metav1.WatchEvent{}, metav1.APIVersions{}, metav1.APIGroup{}, metav1.APIGroupList{},
		metav1.APIResourceList{}, metav1.PartialObjectMetadata{}, metav1.PartialObjectMetadataList{}, metav1.List{}} {
		t := reflect.TypeOf(o)
		walk(t)
		kinds[schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: t.Name()}] = apiName(t)
		if !strings.HasPrefix(t.Name(), "PartialObject") {
			kinds[schema.GroupVersionKind{Version: "v1", Kind: t.Name()}] = apiName(t)
		}
	}
	fmt.Println("# Facts about the types of Kubernetes 1.36, stable versions; written by facts/main.go, read by build.rs.")
	fmt.Println("# K group version kind type | T type Go-name map-type | I number inlined-type |")
	fmt.Println("# F name number shape Go-type flags(p pointer, e omitempty, z omitzero, r required) list-type keys map-type strategy merge-key default enum")
	var lines []string
	for gvk, name := range kinds {
		lines = append(lines, strings.Join([]string{"K", gvk.Group, gvk.Version, gvk.Kind, name}, "\t"))
	}
	sort.Strings(lines)
	var names []string
	for name := range defs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		d := defs[name]
		lines = append(lines, strings.Join([]string{"T", d.name, d.goType, d.mapType}, "\t"))
		for _, i := range d.inlines {
			lines = append(lines, "I\t"+i.number+"\t"+i.of)
		}
		for _, f := range d.fields {
			cols := append([]string{"F", f.name, f.number, f.shape, f.goType, f.flags}, f.facts[:7]...)
			lines = append(lines, strings.TrimRight(strings.Join(cols, "\t"), "\t"))
		}
	}
	for _, l := range lines {
		fmt.Println(strings.TrimRight(l, "\t"))
	}
}
