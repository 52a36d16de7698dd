"""Pairs of questions: some that look alike and are not, some that are and look different."""

from __future__ import annotations

_DIFFERENT = """
How do I delete a branch? | How do I not delete a branch?
Is it safe to eat raw eggs? | Is it not safe to eat raw eggs?
Should I take aspirin with alcohol? | Should I never take aspirin with alcohol?
Can I travel to Japan with a visa? | Can I travel to Japan without a visa?
Why does my code compile? | Why doesn't my code compile?
Which foods contain gluten? | Which foods don’t contain gluten?
Is this plant edible? | Is this plant inedible?
Is it possible to divide by zero? | Is it impossible to divide by zero?
Is my contract valid? | Is my contract invalid?
Is smoking legal here? | Is smoking illegal here?
Are these results reliable? | Are these results unreliable?
Who is allowed to vote? | Who is not allowed to vote?
Does anybody live there? | Does nobody live there?
What is 15% of 200? | What is 25% of 200?
How do I cook rice for 4 people? | How do I cook rice for 40 people?
What happened in 1914? | What happened in 1941?
How far is 5 km in miles? | How far is 50 km in miles?
What is the square root of 144? | What is the square root of 169?
Is 37.5 a fever? | Is 39.5 a fever?
How many legs do two spiders have? | How many legs do three spiders have?
What can I buy for twenty dollars? | What can I buy for thirty dollars?
What is 1,000 times 3? | What is 10,000 times 3?
Who was the 1st president? | Who was the 2nd president?
Remind me at 10:30 | Remind me at 11:30
What did I do on 2024-01-02? | What did I do on 2024-02-01?
How do I upgrade to version 2.1? | How do I upgrade to version 2.2?
What are the features of Python 2? | What are the features of Python 3?
How much is 5k in euros? | How much is 50k in euros?
How heavy is 5 kg? | How heavy is 5 pounds?
Convert 100 dollars | Convert 100 euros
How many miles is it to the moon? | How many kilometers is it to the moon?
Is 30 degrees celsius hot? | Is 30 degrees fahrenheit hot?
How much memory is 8 GB? | How much memory is 8 MB?
Take it every 6 hours | Take it every 6 days
How long is 3 weeks? | How long is 3 months?
What is 20 percent of it? | What is 20 dollars of it?
How fast is 100 mph? | How fast is 100 kmh?
What is the capital of France? | What is the capital of Germany?
Who founded Microsoft? | Who founded Apple?
When was Einstein born? | When was Newton born?
Is Tesla a good stock to own? | Is Ford a good stock to own?
How do I get from London to Paris? | How do I get from Paris to London?
What does NATO do? | What does WHO do?
How do I use React hooks? | How do I use Vue hooks?
What is the best phone by Samsung? | What is the best phone by Huawei?
Translate this letter into French | Translate this letter into Spanish
Is Messi better than Ronaldo? | Is Ronaldo better than Messi?
Did Rome conquer Greece before Egypt? | Did Rome conquer Egypt before Greece?
How do I convert JSON to XML? | How do I convert XML to JSON?
Why does the dog chase the cat from the yard? | Why does the cat chase the dog from the yard?
Should I buy gold now? | Should I sell gold now?
How do I increase the volume? | How do I decrease the volume?
What are the advantages of solar power? | What are the disadvantages of solar power?
How do I enable dark mode? | How do I disable dark mode?
How do I install the package? | How do I uninstall the package?
What should I eat before a run? | What should I eat after a run?
What is the maximum speed? | What is the minimum speed?
What is the largest city in the state? | What is the smallest city in the state?
How do I open a bank account? | How do I close a bank account?
What is the best film ever made? | What is the worst film ever made?
How do I upload the file? | How do I download the file?
How can I gain weight quickly? | How can I lose weight quickly?
How do I turn left at the light? | How do I turn right at the light?
What can I do in the morning? | What can I do in the evening?
What is open today? | What is open tomorrow?
Is there school on Monday? | Is there school on Friday?
What is the weather like in January? | What is the weather like in July?
How do I encrypt the disk? | How do I decrypt the disk?
Who imports the most oil? | Who exports the most oil?
How do I lend money to a friend? | How do I borrow money to a friend?
Why do men lie so much? | Why do women lie so much?
What does his father do? | What does his mother do?
Does the price rise in winter? | Does the price fall in winter?
Who is allowed to enter? | Who is forbidden to enter?
When was the bridge built? | Where was the bridge built?
Who wrote the book? | Why was the book written?
How many people live there? | How long do people live there?
Where is the meeting? | When is the meeting?
How old is the tree? | How tall is the tree?
What does "carpe diem" mean? | What does "memento mori" mean?
Who said “I have a dream”? | Who said “Ask not what your country can do”?
What does `git pull` do? | What does `git push` do?
How do I call get_user()? | How do I call set_user()?
What is in /etc/passwd? | What is in /etc/shadow?
What does --force do? | What does --dry-run do?
What is user_name for? | What is user_id for?
How do I use numpy.array? | How do I use numpy.arange?
Is https://a.example safe? | Is https://b.example safe?
What does readFile return? | What does writeFile return?
Who is @alice? | Who is @bob?
Is C++ hard to learn? | Is C# hard to learn?
How do I boil eggs? | How do I boil potatoes?
What is a good name for a dog? | What is a good name for a cat?
What are the symptoms of measles? | What are the symptoms of malaria?
怎么安装这个软件？ | 怎么卸载这个软件？
这个药可以饭前吃吗？ | 这个药可以饭后吃吗？
北京的天气怎么样？ | 上海的天气怎么样？
鸡蛋可以生吃吗？ | 鸡蛋不可以生吃吗？
哪些食物含有麸质？ | 哪些食物没有麸质？
这个合同有效吗？ | 这个合同无效吗？
三个苹果多少钱？ | 五个苹果多少钱？
二零二三年发生了什么？ | 二零二四年发生了什么？
2023年发生了什么？ | 2024年发生了什么？
一百元能买什么？ | 一千元能买什么？
5公斤有多重？ | 5磅有多重？
100美元是多少？ | 100欧元是多少？
到那里有多少公里？ | 到那里有多少英里？
如何增加内存？ | 如何减少内存？
太阳能的优点是什么？ | 太阳能的缺点是什么？
如何打开通知？ | 如何关闭通知？
怎么上传文件？ | 怎么下载文件？
现在应该买股票吗？ | 现在应该卖股票吗？
世界上最大的城市是哪个？ | 世界上最小的城市是哪个？
从北京到上海怎么走？ | 从上海到北京怎么走？
猫比狗聪明吗？ | 狗比猫聪明吗？
会议什么时候开？ | 会议在哪里开？
谁写了这本书？ | 为什么写了这本书？
这棵树有多高？ | 这棵树有多大？
今天有什么活动？ | 明天有什么活动？
星期一上课吗？ | 星期二上课吗？
《红楼梦》的作者是谁？ | 《西游记》的作者是谁？
“守株待兔”是什么意思？ | “画蛇添足”是什么意思？
张伟是谁？ | 王芳是谁？
如何用苹果手机拍照？ | 如何用安卓手机拍照？
吸烟合法吗？ | 吸烟非法吗？
如何学习英语？ | 如何学习法语？
他的父亲是做什么的？ | 他的母亲是做什么的？
冬天价格会上涨吗？ | 冬天价格会下跌吗？
""" + (
    "Was ist die Hauptstadt von Frankreich? | Was ist die Hauptstadt von Spanien?\n"
    "Darf ich hier parken? | Darf ich hier nicht parken?\n"
    "¿Puedo viajar con visa? | ¿Puedo viajar sin visa?\n"
    "東京の天気は？ | 大阪の天気は？\n"
)
_SAME = """
How do I reset my password? | How can I reset my password?
How do I reset my password? | how do i reset my password
What's the capital of France? | What is the capital of France?
What is the capital of France? | Capital of France?
Could you tell me how to boil an egg? | How do I boil eggs?
How do I learn Python? | What is the best way to learn Python?
How do I learn python quickly? | How can I learn Python quickly?
What is machine learning? | Please explain what machine learning is.
What are the symptoms of flu? | What symptoms does flu have?
How many people live in Tokyo? | How many people are living in Tokyo?
Who wrote Hamlet? | Who is it that wrote Hamlet?
Why is the sky blue? | Why is the sky so blue?
Can I cancel my order? | May I cancel my order?
I don't get it. How does it work? | I do not get it. How does it work?
Why can’t I log in? | Why can't I log in?
What is 5 km in miles? | What's 5 kilometers in miles?
What is 1,000 times 3? | What is 1000 times 3?
What is twenty times two? | What is 20 times 2?
How do I use `git pull`? | How do I use git pull?
What does "carpe diem" mean? | What does carpe diem mean?
How do I cook rice? | How should I cook rice?
How do I install Docker on Ubuntu? | How can Docker be installed on Ubuntu?
What's the population of India? | What is India's population?
Is coffee bad for you? | Is coffee bad for your health?
What is the meaning of life? | What's the meaning of life?
How do I make pancakes? | How to make a pancake?
What causes earthquakes? | What is it that causes earthquakes?
How does photosynthesis work? | Explain how photosynthesis works.
Which city is the largest in China? | What is the largest city in China?
Where can I find cheap flights? | Where can I find a cheap flight?
How long does it take to get to Mars? | How long would it take to get to Mars?
Is there life on Mars? | Is there any life on Mars?
How do I write a cover letter? | How can I write a good cover letter?
How do I delete my YouTube account? | How can I delete my youtube account?
What is the best way to lose weight? | What is the best way of losing weight?
What are the benefits of yoga? | What are the health benefits of yoga?
Should I learn Java or Python first? | Which should I learn first, Java or Python?
Translate "good morning" into French | Please translate "good morning" into French.
Why do cats purr? | Why does a cat purr?
What time is it in London? | What time is it now in London?
What is one plus two? | What is 1 plus 2?
How do I center a div? | How can I center a div?
What does HTTP 404 mean? | What is the meaning of HTTP 404?
Does the store open on Sundays? | Does the store open on Sunday?
Is a tomato a fruit? | Are tomatoes fruits?
怎么重置密码？ | 如何重置密码？
怎么重置密码？ | 请问怎么重置密码？
北京的天气怎么样？ | 北京天气怎么样
你能解释什么是机器学习吗？ | 请解释什么是机器学习？
世界上最大的城市是哪个？ | 世界上最大的城市是哪一个？
这个软件怎么安装？ | 怎么安装这个软件？
猫为什么会叫？ | 为什么猫会叫？
三个苹果多少钱？ | 3个苹果多少钱？
一百元能买什么？ | 100元能买什么？
２０２３年发生了什么？ | 2023年发生了什么？
《红楼梦》的作者是谁？ | 红楼梦的作者是谁？
如何学习Python？ | 怎么学习python？
你知道不知道这件事？ | 你知道这件事吗？
这样做对不对？ | 这样做对吗？
吃太多糖有什么坏处？ | 吃太多的糖有什么坏处？
"""


def _pairs(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.strip().splitlines():
        one, other = line.split(" | ")
        found.append((one, other))
    return found


DIFFERENT = _pairs(_DIFFERENT)
SAME = _pairs(_SAME)
