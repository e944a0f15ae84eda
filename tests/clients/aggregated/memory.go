package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// memories is one memory for each resource, in whatever version it is asked for.
type memories struct {
	lock       sync.Mutex
	byResource map[schema.GroupResource]*memory
}

func newMemories() *memories {
	return &memories{byResource: map[schema.GroupResource]*memory{}}
}

func (m *memories) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	decorate := func(_ *storagebackend.ConfigForResource, _ string, _ func(runtime.Object) (string, error),
		newFunc, _ func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		m.lock.Lock()
		defer m.lock.Unlock()
		if m.byResource[resource] == nil {
			// Revisions of an earlier process are older, and what it knew is gone.
			first := uint64(time.Now().UnixMilli())
			m.byResource[resource] = &memory{newFunc: newFunc, first: first, revision: first, objects: map[string]runtime.Object{}}
		}
		return m.byResource[resource], func() {}, nil
	}
	return generic.RESTOptions{
		StorageConfig:           (&storagebackend.Config{}).ForResource(resource),
		Decorator:               decorate,
		DeleteCollectionWorkers: 1,
		EnableGarbageCollection: true,
		ResourcePrefix:          "/" + resource.String(),
	}, nil
}

// change is what watches are told; a deletion has no object, a creation nothing before it.
type change struct {
	key            string
	object, before runtime.Object
	revision       uint64
}

// memory keeps the objects of one resource, every change that they have had, and who follows those.
type memory struct {
	storage.APIObjectVersioner
	newFunc  func() runtime.Object
	lock     sync.Mutex
	first    uint64
	revision uint64
	objects  map[string]runtime.Object
	changes  []change
	watches  []*following
}

func (m *memory) Versioner() storage.Versioner { return m.APIObjectVersioner }

// commit must be called with the lock held. It hands out the object with its revision.
func (m *memory) commit(key string, object runtime.Object) (runtime.Object, error) {
	m.revision++
	made := change{key: key, before: m.objects[key], revision: m.revision}
	if object != nil {
		object = object.DeepCopyObject()
		if err := m.UpdateObject(object, m.revision); err != nil {
			return nil, err
		}
		m.objects[key], made.object = object, object
	} else {
		gone := m.objects[key].DeepCopyObject()
		if err := m.UpdateObject(gone, m.revision); err != nil {
			return nil, err
		}
		delete(m.objects, key)
		made.before, object = gone, gone
	}
	m.changes = append(m.changes, made)
	for _, w := range m.watches {
		w.tell(made)
	}
	return object, nil
}

func set(out, object runtime.Object) {
	reflect.ValueOf(out).Elem().Set(reflect.ValueOf(object.DeepCopyObject()).Elem())
}

func (m *memory) Create(_ context.Context, key string, object, out runtime.Object, _ uint64) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.objects[key] != nil {
		return storage.NewKeyExistsError(key, 0)
	}
	if err := m.PrepareObjectForStorage(object); err != nil {
		return err
	}
	made, err := m.commit(key, object)
	if err == nil && out != nil {
		set(out, made)
	}
	return err
}

func (m *memory) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions,
) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	object := m.objects[key]
	if object == nil {
		return storage.NewKeyNotFoundError(key, 0)
	}
	if preconditions != nil {
		if err := preconditions.Check(key, object); err != nil {
			return err
		}
	}
	if err := validate(ctx, object); err != nil {
		return err
	}
	gone, err := m.commit(key, nil)
	if err == nil {
		set(out, gone)
	}
	return err
}

func (m *memory) Get(_ context.Context, key string, options storage.GetOptions, out runtime.Object) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	object := m.objects[key]
	switch {
	case object != nil:
		set(out, object)
	case options.IgnoreNotFound:
		return runtime.SetZeroValue(out)
	default:
		return storage.NewKeyNotFoundError(key, 0)
	}
	return nil
}

// under says whether a key is what a list or watch is about.
func under(key, wanted string, recursive bool) bool {
	return key == wanted || recursive && strings.HasPrefix(key, strings.TrimSuffix(wanted, "/")+"/")
}

func (m *memory) GetList(_ context.Context, key string, options storage.ListOptions, list runtime.Object) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	var items []runtime.Object
	for _, name := range m.sorted(key, options.Recursive) {
		matches, err := options.Predicate.Matches(m.objects[name])
		if err != nil {
			return err
		}
		if matches {
			items = append(items, m.objects[name].DeepCopyObject())
		}
	}
	if err := meta.SetList(list, items); err != nil {
		return err
	}
	return m.UpdateList(list, m.revision, "", nil)
}

func (m *memory) sorted(key string, recursive bool) []string {
	var names []string
	for name := range m.objects {
		if under(name, key, recursive) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (m *memory) GuaranteedUpdate(_ context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, update storage.UpdateFunc, _ runtime.Object,
) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	current := m.objects[key]
	revision := uint64(0)
	if current == nil {
		if !ignoreNotFound {
			return storage.NewKeyNotFoundError(key, 0)
		}
		current = m.newFunc()
	} else {
		current = current.DeepCopyObject()
		revision, _ = m.ObjectResourceVersion(current)
	}
	if preconditions != nil {
		if err := preconditions.Check(key, current); err != nil {
			return err
		}
	}
	changed, _, err := update(current.DeepCopyObject(), storage.ResponseMeta{ResourceVersion: revision})
	if err != nil {
		return err
	}
	if revision != 0 && equality.Semantic.DeepEqual(changed, current) {
		set(out, current)
		return nil
	}
	if err := m.PrepareObjectForStorage(changed); err != nil {
		return err
	}
	made, err := m.commit(key, changed)
	if err == nil {
		set(out, made)
	}
	return err
}

func (m *memory) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	w := &following{memory: m, key: key, options: options, wake: make(chan struct{}, 1), out: make(chan watch.Event), done: make(chan struct{})}
	whole := options.SendInitialEvents != nil && *options.SendInitialEvents
	if from := options.ResourceVersion; whole || from == "" || from == "0" {
		for _, name := range m.sorted(key, options.Recursive) {
			w.tell(change{key: name, object: m.objects[name]})
		}
	} else {
		after, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			return nil, err
		}
		if after < m.first {
			return nil, apierrors.NewResourceExpired("too old resource version")
		}
		for _, made := range m.changes {
			if made.revision > after {
				w.tell(made)
			}
		}
	}
	if whole {
		mark := m.newFunc()
		if err := m.UpdateObject(mark, m.revision); err != nil {
			return nil, err
		}
		accessor, err := meta.Accessor(mark)
		if err != nil {
			return nil, err
		}
		accessor.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		w.add(watch.Event{Type: watch.Bookmark, Object: mark})
	}
	m.watches = append(m.watches, w)
	go w.run(ctx)
	return w, nil
}

func (m *memory) Stats(context.Context) (storage.Stats, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	return storage.Stats{ObjectCount: int64(len(m.objects))}, nil
}

func (m *memory) GetCurrentResourceVersion(context.Context) (uint64, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.revision, nil
}

func (m *memory) ReadinessCheck() error                               { return nil }
func (m *memory) RequestWatchProgress(context.Context) error          { return nil }
func (m *memory) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }
func (m *memory) CompactRevision() int64                              { return 0 }

// following is one watch. Events wait in it, so that nobody waits for a slow client.
type following struct {
	memory  *memory
	key     string
	options storage.ListOptions
	lock    sync.Mutex
	waiting []watch.Event
	wake    chan struct{}
	out     chan watch.Event
	done    chan struct{}
	once    sync.Once
}

func (w *following) ResultChan() <-chan watch.Event { return w.out }

func (w *following) Stop() { w.once.Do(func() { close(w.done) }) }

// tell adds what the change is to somebody who sees a part of the objects.
func (w *following) tell(made change) {
	if !under(made.key, w.key, w.options.Recursive) {
		return
	}
	sees := func(object runtime.Object) bool {
		if object == nil {
			return false
		}
		matches, err := w.options.Predicate.Matches(object)
		return err == nil && matches
	}
	switch before, now := sees(made.before), sees(made.object); {
	case now && before:
		w.add(watch.Event{Type: watch.Modified, Object: made.object.DeepCopyObject()})
	case now:
		w.add(watch.Event{Type: watch.Added, Object: made.object.DeepCopyObject()})
	case before:
		gone := made.before.DeepCopyObject()
		if err := w.memory.UpdateObject(gone, made.revision); err != nil {
			panic(fmt.Errorf("a deleted object without metadata: %w", err))
		}
		w.add(watch.Event{Type: watch.Deleted, Object: gone})
	}
}

func (w *following) add(event watch.Event) {
	w.lock.Lock()
	w.waiting = append(w.waiting, event)
	w.lock.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *following) run(ctx context.Context) {
	defer func() {
		w.memory.lock.Lock()
		w.memory.watches = slices.DeleteFunc(w.memory.watches, func(other *following) bool { return other == w })
		w.memory.lock.Unlock()
		close(w.out)
	}()
	for {
		w.lock.Lock()
		events := w.waiting
		w.waiting = nil
		w.lock.Unlock()
		for _, event := range events {
			select {
			case w.out <- event:
			case <-w.done:
				return
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-w.wake:
		case <-w.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

var _ storage.Interface = &memory{}
