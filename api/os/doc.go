// Package os holds the wire types of a node's REST API, one file per resource.
//
// The paths, names and shapes are those of the IncusOS REST API, so that stock
// clients (`incus admin os`, Operations Center) work unchanged; what Holdfast adds
// are fields that those clients ignore. A resource that can be changed has two
// halves: Config is what the owner asked for and is kept; State is what the node
// observes and is never read from a request.
//
// The package imports the standard library alone.
package os
