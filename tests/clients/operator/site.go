package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

var (
	group = "web.kedge.test"
	// stored is the version that the operator works with.
	stored = schema.GroupVersion{Group: group, Version: "v1"}
	older  = schema.GroupVersion{Group: group, Version: "v1alpha1"}
)

// Site is a page that some pods serve.
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              SiteSpec   `json:"spec"`
	Status            SiteStatus `json:"status,omitempty"`
}

type SiteSpec struct {
	Page     Page   `json:"page"`
	Replicas *int32 `json:"replicas,omitempty"`
	// Theme names a ConfigMap beside the site, whose "footer" ends the page.
	Theme string `json:"theme,omitempty"`
}

type Page struct {
	Body string `json:"body"`
}

type SiteStatus struct {
	Replicas           int32              `json:"replicas"`
	ReadyReplicas      int32              `json:"readyReplicas"`
	Selector           string             `json:"selector,omitempty"`
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Site `json:"items"`
}

// OldSite is a Site as v1alpha1 wrote it: the page's text lay in the spec itself.
type OldSite struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              OldSpec    `json:"spec"`
	Status            SiteStatus `json:"status,omitempty"`
}

type OldSpec struct {
	Text     string `json:"text"`
	Replicas *int32 `json:"replicas,omitempty"`
	Theme    string `json:"theme,omitempty"`
}

func addToScheme(scheme *runtime.Scheme) {
	scheme.AddKnownTypeWithName(stored.WithKind("Site"), &Site{})
	scheme.AddKnownTypeWithName(stored.WithKind("SiteList"), &SiteList{})
	scheme.AddKnownTypeWithName(older.WithKind("Site"), &OldSite{})
	metav1.AddToGroupVersion(scheme, stored)
	metav1.AddToGroupVersion(scheme, older)
}

// Hub: the other version is converted from and to this one.
func (*Site) Hub() {}

func (o *OldSite) ConvertTo(to conversion.Hub) error {
	s := to.(*Site)
	s.ObjectMeta = o.ObjectMeta
	s.Spec = SiteSpec{Page: Page{Body: o.Spec.Text}, Replicas: o.Spec.Replicas, Theme: o.Spec.Theme}
	s.Status = o.Status
	return nil
}

func (o *OldSite) ConvertFrom(from conversion.Hub) error {
	s := from.(*Site)
	o.ObjectMeta = s.ObjectMeta
	o.Spec = OldSpec{Text: s.Spec.Page.Body, Replicas: s.Spec.Replicas, Theme: s.Spec.Theme}
	o.Status = s.Status
	return nil
}

func (s *Site) DeepCopy() *Site {
	c := *s
	c.ObjectMeta = *s.ObjectMeta.DeepCopy()
	c.Spec.Replicas = copied(s.Spec.Replicas)
	c.Status.Conditions = append([]metav1.Condition(nil), s.Status.Conditions...)
	return &c
}

func (s *Site) DeepCopyObject() runtime.Object { return s.DeepCopy() }

func (l *SiteList) DeepCopyObject() runtime.Object {
	c := *l
	c.ListMeta = *l.ListMeta.DeepCopy()
	c.Items = make([]Site, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopy()
	}
	return &c
}

func (o *OldSite) DeepCopyObject() runtime.Object {
	c := *o
	c.ObjectMeta = *o.ObjectMeta.DeepCopy()
	c.Spec.Replicas = copied(o.Spec.Replicas)
	c.Status.Conditions = append([]metav1.Condition(nil), o.Status.Conditions...)
	return &c
}

func copied(n *int32) *int32 {
	if n == nil {
		return nil
	}
	return new(*n)
}
