package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// certificate gives the one that every replica serves webhooks with: who comes first makes it.
func certificate(ctx context.Context, api client.Client, home string) (pair tls.Certificate, authority []byte, err error) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: "operator-tls"}, Type: corev1.SecretTypeTLS}
	if secret.Data, err = sign("operator." + home + ".svc"); err != nil {
		return pair, nil, err
	}
	if err = api.Create(ctx, secret); apierrors.IsAlreadyExists(err) {
		err = api.Get(ctx, client.ObjectKeyFromObject(secret), secret)
	}
	if err == nil {
		pair, err = tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	}
	return pair, secret.Data["ca.crt"], err
}

// sign makes an authority that nobody keeps the key of, and what it signed for a name.
func sign(name string) (map[string][]byte, error) {
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	served := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	var keys [2]*ecdsa.PrivateKey
	var certificates [2][]byte
	for i, template := range []*x509.Certificate{authority, served} {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
		if certificates[i], err = x509.CreateCertificate(rand.Reader, template, authority, keys[i].Public(), keys[0]); err != nil {
			return nil, err
		}
	}
	key, err := x509.MarshalECPrivateKey(keys[1])
	return map[string][]byte{
		"ca.crt":  block("CERTIFICATE", certificates[0]),
		"tls.crt": block("CERTIFICATE", certificates[1]),
		"tls.key": block("EC PRIVATE KEY", key),
	}, err
}

func block(kind string, der []byte) []byte {
	var text bytes.Buffer
	// Nothing can go wrong with a buffer.
	_ = pem.Encode(&text, &pem.Block{Type: kind, Bytes: der})
	return text.Bytes()
}

// trust tells the API server whom to believe, in everything that sends it to the operator.
func trust(ctx context.Context, api client.Client, authority []byte) error {
	bundle, err := json.Marshal(authority)
	if err != nil {
		return err
	}
	for _, held := range []struct{ group, kind, name, path string }{
		{"admissionregistration.k8s.io", "MutatingWebhookConfiguration", "sites", "/webhooks/0"},
		{"admissionregistration.k8s.io", "ValidatingWebhookConfiguration", "sites", "/webhooks/0"},
		{"apiextensions.k8s.io", "CustomResourceDefinition", "sites." + group, "/spec/conversion/webhook"},
	} {
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(schema.GroupVersionKind{Group: held.group, Version: "v1", Kind: held.kind})
		object.SetName(held.name)
		patch := `[{"op":"add","path":"` + held.path + `/clientConfig/caBundle","value":` + string(bundle) + `}]`
		if err = api.Patch(ctx, object, client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
			return err
		}
	}
	return nil
}
