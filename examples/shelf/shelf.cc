// A server in C++ to update: values of several kinds behind a virtual interface, standard containers,
// templates, and exceptions that pass from deep in a command to the loop.
//
//   PUT key value     store a text                          OK
//   GET key           the value, or NONE
//   ADD key n         add to a number; makes it if absent   the new number
//   PUSH key value    from version 2: append to a list      its length
//   ADDS key          version 3: how often a number was added to
//   COUNT             how many keys
//
// Version 1 lets ADD overflow, which is undefined. Version 2 refuses it, and has lists: a new class
// with a virtual table and type information of its own. No type of version 1 changes. Version 3 counts in
// each number how often it was added to: the objects of that class grow, and v2-v3.c makes them anew.
//
// One command a line, one reply a line; ERR and a reason if it cannot be done. One thread, one epoll
// loop.
//
//   shelf-vN PORT     listens on 127.0.0.1
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 1
#endif

namespace {

// What a client is told; everything else that is thrown ends its connection.
class Refused : public std::runtime_error {
public:
	using std::runtime_error::runtime_error;
};

class Value {
public:
	virtual ~Value() = default;
	virtual std::string show() const = 0;
	virtual const char *kind() const = 0;
};

class Text final : public Value {
public:
	explicit Text(std::string_view text) : text_(text) {}
	std::string show() const override { return text_; }
	const char *kind() const override { return "text"; }

private:
	std::string text_;
};

class Number final : public Value {
public:
	std::string show() const override { return std::to_string(number_); }
	const char *kind() const override { return "number"; }
	void add(long long n)
	{
#if VERSION >= 2
		long long sum;
		if (__builtin_add_overflow(number_, n, &sum))
			throw Refused("the number would be too large");
		number_ = sum;
#else
		number_ += n;
#endif
#if VERSION >= 3
		adds_++;
#endif
	}
#if VERSION >= 3
	unsigned long adds() const { return adds_; }
#endif

private:
	long long number_ = 0;
#if VERSION >= 3
	unsigned long adds_ = 0;
#endif
};

#if VERSION >= 2
class List final : public Value {
public:
	std::string show() const override
	{
		std::string all;
		for (const auto &item : items_)
			all += (all.empty() ? "" : " ") + item;
		return all;
	}
	const char *kind() const override { return "list"; }
	std::size_t push(std::string_view item)
	{
		items_.emplace_back(item);
		return items_.size();
	}

private:
	std::vector<std::string> items_;
};
#endif

std::unordered_map<std::string, std::unique_ptr<Value>> shelf;
std::map<int, std::string> clients; // what each has sent of a line that has not ended yet

// The value of a key if it is of this kind; a new one if there is none.
template <typename Kind>
Kind &as(const std::string &key)
{
	auto &place = shelf[key];
	if (!place)
		place = std::make_unique<Kind>();
	auto *value = dynamic_cast<Kind *>(place.get());
	if (!value)
		throw Refused(key + " is a " + place->kind());
	return *value;
}

std::string_view word(std::string_view &rest)
{
	const auto end = std::min(rest.find(' '), rest.size());
	const auto first = rest.substr(0, end);
	rest.remove_prefix(std::min(end + 1, rest.size()));
	return first;
}

long long number(std::string_view text)
{
	long long n = 0;
	const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
	if (error != std::errc() || end != text.data() + text.size())
		throw Refused("not a number");
	return n;
}

// Not inlined: main never returns, and so must not contain what a later version changes.
[[gnu::noinline]] std::string command(std::string_view line)
{
	const auto name = word(line);
	if (name == "COUNT" && line.empty())
		return std::to_string(shelf.size());
	const std::string key(word(line));
	if (name == "GET" && !key.empty() && line.empty()) {
		const auto found = shelf.find(key);
		return found == shelf.end() ? "NONE" : found->second->show();
	}
#if VERSION >= 3
	if (name == "ADDS" && !key.empty() && line.empty())
		return std::to_string(as<Number>(key).adds());
#endif
	if (key.empty() || line.empty())
		throw Refused("unknown command");
	if (name == "PUT") {
		shelf[key] = std::make_unique<Text>(line);
		return "OK";
	}
	if (name == "ADD") {
		const auto n = number(line);
		auto &counter = as<Number>(key);
		counter.add(n);
		return counter.show();
	}
#if VERSION >= 2
	if (name == "PUSH")
		return std::to_string(as<List>(key).push(line));
#endif
	throw Refused("unknown command");
}

void reply(int fd, std::string text)
{
	text += "\r\n";
	if (write(fd, text.data(), text.size()) < 0)
		throw std::runtime_error("the client is gone");
}

void run(int fd, std::string_view line)
{
	if (!line.empty() && line.back() == '\r')
		line.remove_suffix(1);
	try {
		reply(fd, command(line));
	} catch (const Refused &refused) {
		reply(fd, std::string("ERR ") + refused.what());
	}
}

void serve(int fd)
{
	char bytes[4096];
	const auto n = read(fd, bytes, sizeof(bytes));
	if (n <= 0)
		throw std::runtime_error("the client has hung up");
	auto &pending = clients[fd];
	pending.append(bytes, static_cast<std::size_t>(n));
	std::size_t start = 0, end;
	for (; (end = pending.find('\n', start)) != std::string::npos; start = end + 1)
		run(fd, std::string_view(pending).substr(start, end - start));
	pending.erase(0, start);
}

void handle(int epoll, int listener, int fd)
{
	if (fd != listener) {
		try {
			serve(fd);
		} catch (const std::exception &) {
			clients.erase(fd);
			close(fd);
		}
		return;
	}
	epoll_event event{};
	event.events = EPOLLIN;
	event.data.fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
	if (event.data.fd >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event) < 0)
		close(event.data.fd);
}

} // namespace

int main(int argc, char **argv)
{
	if (argc != 2) {
		std::fprintf(stderr, "usage: %s PORT\n", argv[0]);
		return 2;
	}
	std::signal(SIGPIPE, SIG_IGN);
	sockaddr_in address{};
	address.sin_family = AF_INET;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(argv[1])));
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	const int epoll = epoll_create1(EPOLL_CLOEXEC);
	epoll_event event{}, events[64];
	event.events = EPOLLIN;
	event.data.fd = listener;
	if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof(address)) < 0 ||
	    listen(listener, 128) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) {
		std::perror("shelf");
		return 1;
	}
	for (;;) {
		const int n = epoll_wait(epoll, events, 64, -1);
		for (int i = 0; i < n; i++)
			handle(epoll, listener, events[i].data.fd);
	}
}
