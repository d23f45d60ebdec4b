// From version 2 to version 3: numbers get a count. Their class is private to the server's file, so the part of
// it that is needed is declared again; the containers are those of the standard library, as the server has
// them.
//
//   mvedsua bundle build --old shelf-v2 --new shelf-v3 --transform v2-v3.cc -o v3.mvu
#include <memory>
#include <string>
#include <unordered_map>

#include <mvedsua_abi.h>

MVEDSUA_HANDLES(struct {anonymous}::Number);

// As it is called through objects of the server. A name of its own: a class without linkage would be made here.
class Value {
public:
	// Only declared: the server's own is called, through the object.
	virtual ~Value();
	virtual std::string show() const = 0;
	virtual const char *kind() const = 0;
};

// What an object of class Number is in memory, without and with its count.
struct Before {
	void *table;
	long long number;
};
struct After {
	Before before;
	unsigned long adds;
};

using Shelf = std::unordered_map<std::string, std::unique_ptr<Value>>;

extern Shelf shelf asm("mvedsua.old._ZN12_GLOBAL__N_15shelfE");

extern "C" int mvedsua_transform(void)
{
	unsigned long done = 0;
	for (auto &entry : shelf) {
		if (__builtin_strcmp(entry.second->kind(), "number") == 0) {
			auto *before = reinterpret_cast<Before *>(entry.second.release());
			auto *after = static_cast<After *>(mvedsua_alloc(sizeof(After)));
			*after = {*before, 0};
			mvedsua_moved(before, after, sizeof(Before));
			entry.second.reset(reinterpret_cast<Value *>(after));
			mvedsua_free(before);
		}
		if (++done % 256 == 0)
			mvedsua_progress(done, shelf.size());
	}
	mvedsua_progress(done, done);
	return 0;
}
