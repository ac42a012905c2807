package delta

// gear holds a fixed random number for each byte. A hash over a moving window is then a
// shift and an addition for each byte (Wen Xia et al., "Ddelta: a deduplication-inspired
// fast delta compression approach", Performance Evaluation 79, 2014). The table decides
// where files are cut: to change it makes all published chunks useless to old nodes'
// files, so it never changes.
var gear = makeGear()

// makeGear fills the table with the first 256 numbers of SplitMix64 from the seed 0
// (Guy L. Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014).
func makeGear() (table [256]uint64) {
	var state uint64
	for i := range table {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}
