"""Pairs of questions: some that look alike and are not, some that are and look different."""

from __future__ import annotations

_DIFFERENT = r"""
Who is the president of Peru? | Who is the former president of Peru?
Who is the mayor of Lima? | Who is the deputy mayor of Lima?
Who is the ex-president of Peru? | Who is the vice president of Peru?
谁是法国总统？ | 谁是法国前总统？
谁是校长？ | 谁是副校长？
Is the museum open today? | Was the museum open today?
Who is the president of France? | Who was the president of France?
Does the shop sell stamps? | Did the shop sell stamps?
Why don't they answer? | Why didn't they answer?
Do all birds fly? | Do most birds fly?
Is every student eligible for aid? | Is any student eligible for aid?
Can few people solve this puzzle? | Can many people solve this puzzle?
Tell me about my order | Tell me about your order
Flights to Boston | Flights from Boston
Is the room available until 5 pm? | Is the room available from 5 pm?
How do I pay with my card? | How do I pay with my card when abroad?
Can I cancel my subscription? | Can I cancel my subscription after the trial?
Can I eat eggs? | Can I eat eggs during pregnancy?
Is it safe to fly? | Is it safe to fly before surgery?
How do I convert inches to feet? | How do you convert feet to inches?
How can I move files from Mac to PC? | How do I move files from PC to Mac?
Why is Python slower than C? | How is C slower than Python?
What do cats like about dogs? | What do dogs like about the cats?
Who is my mother's father? | Who is my father's mother?
How many dollars is one euro? | How many euros is one dollar?
What is 100 dollars in euros? | How many dollars are 100 euros?
How many euros is $100? | How many dollars is €100?
Is the shop open? | When will the shop be open?
Are there lockers at the station? | Where are the lockers at the station?
What is 8 divided by 2? | What is 8 multiplied by 2?
What are stocks? | What are bonds?
Who are you? | Who am I?
试用期后我可以取消订阅吗？ | 我可以取消订阅吗？
怀孕期间吃鸡蛋安全吗？ | 吃鸡蛋安全吗？
手术前可以喝水吗？ | 可以喝水吗？
下雨的时候可以骑车吗？ | 可以骑车吗？
商店开门吗？ | 商店什么时候开门？
怎么登录？ | 怎么退出？
什么是爱？ | 什么是恨？
一元等于多少美元？ | 一美元等于多少元？
고기를 먹는 사람 | 고기를 먹지 않는 사람
卵を食べる人は？ | 卵を食べない人は？
Did it rain in Paris? | Will it rain in Paris?
Why did he leave? | Why will he leave?
What will the price be? | What was the price?
How did they build the bridge? | How will they build the bridge?
Must I file taxes this year? | May I file taxes this year?
Should I take the pill? | Can I take the pill?
Do I have to pay? | May I pay?
Can I eat eggs or milk? | Can I eat eggs and milk?
Do I need a visa or a passport? | Do I need a visa and a passport?
What is the population of the US? | What is the population of us?
Do they hate US? | Do they hate us?
How do I get a job in IT? | How do I get a job in it?
Is it ten past six? | Is it ten to six?
It is half past six, is that late? | It is half to six, is that late?
Can I drive a car? | Can I drive a car if I am under 18?
Can I get a refund? | Can I get a refund if I lost the receipt?
Can I enter the country? | Can I enter the country unless I have a visa?
Is it safe to swim? | Is it safe to swim while pregnant?
Can only adults enter? | Can adults enter?
Can adults only enter with children? | Can adults enter with children?
他去过北京吗？ | 他会去北京吗？
他昨天来了吗？ | 他会来吗？
股票涨了吗？ | 股票会涨吗？
我必须交税吗？ | 我可以交税吗？
我能喝咖啡和茶吗？ | 我能喝咖啡或茶吗？
我能喝咖啡和茶吗？ | 我能喝咖啡或者茶吗？
我可以退款吗？ | 如果我丢了收据可以退款吗？
我可以开车吗？ | 如果我未满十八岁可以开车吗？
每个学生都要交吗？ | 有的学生要交吗？
只有成年人可以进吗？ | 成年人可以进吗？
What is the capital of Australia? | What is the capital of Austria?
what is the capital of australia | what is the capital of austria
Is Niger a safe country? | Is Nigeria a safe country?
Do all birds fly south in winter? | Do some birds fly south in winter?
Wake me at ten past noon | Wake me at ten to noon
Is it a quarter past the hour? | Is it a quarter to the hour?
What did the UK say about fishing? | What did the UN say about fishing?
Who led the USSR in the cold war? | Who led the USA in the cold war?
Is iran at war with its neighbour? | Is iraq at war with its neighbour?
How do I make my dog stop barking at strangers? | How do I make my dog start barking at strangers?
Is it OK to mix bleach and ammonia? | Is it not OK to mix bleach and ammonia?
Can pregnant women drink coffee? | Can't pregnant women drink coffee?
Which vaccines are mandatory? | Which vaccines are optional?
List countries that have a king | List countries that lack a king
List the countries in the EU | List the countries outside the EU
Which of these are mammals? | Which of these aren't mammals?
Does aspirin thin blood? | Does aspirin thicken blood?
Is the file readable? | Is the file unreadable?
How do I mute the microphone? | How do I unmute the microphone?
How do I lock a row in the table? | How do I unlock a row in the table?
How do I subscribe to the newsletter? | How do I unsubscribe from the newsletter?
How do I follow someone on the app? | How do I unfollow someone on the app?
How do I connect my printer? | How do I disconnect my printer?
Why did the stock go up after earnings? | Why did the stock go down after earnings?
How to zoom in on a picture? | How to zoom out on a picture?
How do I sign in to my account? | How do I sign out of my account?
How do I turn on airplane mode? | How do I turn off airplane mode?
Sort the list in ascending order | Sort the list in descending order
Is debt good for a company? | Is equity good for a company?
What is the input voltage in the box? | What is the output voltage in the box?
Convert 72F to C | Convert 72C to F
Convert 10 miles to km | Convert 10 km to miles
Exchange rate USD to EUR | Exchange rate EUR to USD
Flights from Boston to Denver on Friday | Flights from Denver to Boston on Friday
Did Alice pay Bob the money? | Did Bob pay Alice the money?
Why did Germany invade Poland? | Why did Poland invade Germany?
Is a lion stronger than a tiger? | Is a tiger stronger than a lion?
Subtract 3 from 10 | Subtract 10 from 3
Divide 8 by 2 | Divide 2 by 8
Does smoking cause stress? | Does stress cause smoking?
Translate from English to Chinese | Translate from Chinese to English
who is the ceo of google | who is the ceo of apple
population of paris france | population of paris texas
What did Apple announce on March 3? | What did Apple announce on March 8?
What happened on 03/04/2021? | What happened on 04/03/2021?
What was inflation in Q1 2023? | What was inflation in Q2 2023?
Summarise chapter four | Summarise chapter five
Summarise chapter IV | Summarise chapter VI
What is the dose for a 10 year old? | What is the dose for a 12 year old?
How long to bake at 180C? | How long to bake at 180F?
Is 5 mg of melatonin safe? | Is 5 g of melatonin safe?
How much is 1.5 million? | How much is 1.5 billion?
Explain the iPhone 14 Pro camera | Explain the iPhone 15 Pro camera
Specs of the Galaxy S23 | Specs of the Galaxy S23+
Does GPT-4 support images? | Does GPT-3.5 support images?
How do I use useState? | How do I use useEffect?
What does ls -l do? | What does ls -a do?
Explain os.path.join | Explain os.path.split
Fix: TypeError in line 3 | Fix: ValueError in line 3
What port does ssh use? | What port does ftp use?
Write to bob@example.com | Write to rob@example.com
What is the tax in New York? | What is the tax in New Jersey?
Who killed John Lennon? | Who killed John Kennedy?
Is my cat allowed to eat chocolate? | Is my dog allowed to eat chocolate?
Symptoms of high blood sugar | Symptoms of low blood sugar
Treatment for hyperthyroidism | Treatment for hypothyroidism
Treating hypertension | Treating hypotension
Summarise this in two sentences | Summarise this in three sentences
Reply in a formal tone | Reply in an informal tone
What is the first step? | What is the second step?
Can minors work at night? | Can adults work at night?
Should I use tabs? | Should I avoid tabs?
How do I become a vegetarian? | How do I stop being a vegetarian?
Who won the 2018 World Cup? | Who lost the 2018 World Cup?
Everyone except me can see it, why? | Everyone including me can see it, why?
How do I see all unread messages? | How do I see all read messages?
Which planets have moons? | Which planets have no moons?
如何关注一个账号？ | 如何取消关注一个账号？
这个会议能推迟吗？ | 这个会议能提前吗？
怎么把人民币换成美元？ | 怎么把美元换成人民币？
小明打了小红吗？ | 小红打了小明吗？
他是不是学生？ | 他不是学生吗？
我应该吃药吗？ | 我不应该吃药吗？
如何连接蓝牙？ | 如何断开蓝牙？
怎么登录微信？ | 怎么登录微博？
第三章讲了什么？ | 第四章讲了什么？
三月五日天气 | 五月三日天气
如何降低血压？ | 如何升高血压？
水在零下10度会怎样？ | 水在零上10度会怎样？
为什么股票涨了？ | 为什么股票跌了？
高血糖的症状 | 低血糖的症状
左转怎么走？ | 右转怎么走？
孕妇能喝咖啡吗？ | 孕妇能喝茶吗？
北京大学在哪里？ | 南京大学在哪里？
李白写了什么诗？ | 杜甫写了什么诗？
3.5折是多少？ | 5.3折是多少？
猫怕狗吗？ | 狗怕猫吗？
如何锁定屏幕？ | 如何解锁屏幕？
房价会下降吗？ | 房价会上升吗？
未成年人可以喝酒吗？ | 成年人可以喝酒吗？
Who lends books at the library? | Who borrows books at the library?
Can I eat while fasting? | Can I drink while fasting?
How do I freeze my credit? | How do I unfreeze my credit?
How do I log into the router? | How do I log out of the router?
Does the Sun orbit the Moon? | Does the Moon orbit the Sun?
Can cats catch colds from humans? | Can humans catch colds from cats?
Which side won, Union over Confederacy? | Which side won, Confederacy over Union?
Is 7 > 3 true? | Is 7 < 3 true?
Can I bring liquids onto the plane? | Can I bring lighters onto the plane?
How do I fill the tank? | How do I drain the tank?
How do I tighten a screw? | How do I loosen a screw?
Is the deadline extended? | Is the deadline shortened?
Who inherits if there is a will? | Who inherits if there is no will?
How do I raise the thermostat at 6 am? | How do I raise the thermostat at 6 pm?
Is the museum open on weekdays? | Is the museum open on weekends?
Foods rich in iron | Foods poor in iron
Foods high in salt | Foods low in salt
Why is my hair growing? | Why is my hair falling?
Round 4.5 up | Round 4.5 down
How do I pass the exam? | How do I fail the exam?
Show rows where age >= 18 | Show rows where age <= 18
Is it ever OK to lie? | Is it always OK to lie?
Is everyone invited? | Is only the family invited?
Ignore case when matching | Respect case when matching
Who is Kant's teacher? | Who is Kant's student?
Is the patient conscious? | Is the patient unconscious?
When does the train leave? | When does the train arrive?
妈妈比爸爸高吗？ | 爸爸比妈妈高吗？
如何收紧螺丝？ | 如何松开螺丝？
如何开始戒烟？ | 如何开始吸烟？
如何加入群聊？ | 如何退出群聊？
What is 3+4? | What is 3-4?
What is 3*4? | What is 3/4?
What is 2^8? | What is 2*8?
Is -5 a natural number? | Is 5 a natural number?
What does a < b mean? | What does a > b mean?
What does 😀 mean? | What does 😢 mean?
What does && do in bash? | What does || do in bash?
What does => mean? | What does -> mean?
What does == do? | What does = do?
Is C hard to learn? | Is C++ hard to learn?
Is F hard to learn? | Is F# hard to learn?
Solve x = 4 | Solve x != 4
Is +10 degrees warm? | Is -10 degrees warm?
Why did √16 come up? | Why did 16 come up?
What is CO2? | What is CO?
What is 5:3 as a number? | What is 5.3 as a number?
What is H2O? | What is H2O2?
What does ☀ mean? | What does ☁ mean?
What does [] mean? | What does {} mean?
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
    "Как включить тёмный режим? | Как выключить тёмный режим?\n"
    "Где вход в метро? | Где выход из метро?\n"
    "Posso fumare? | Non posso fumare?\n"
    "ร้านเปิดวันจันทร์ไหม | ร้านปิดวันจันทร์ไหม\n"
    "ฉันกินไข่ได้ไหม | ฉันกินไข่ไม่ได้ไหม\n"
    "โรงแรมในกรุงเทพ | โรงแรมในเชียงใหม่\n"
    "ร้านเปิดวันจันทร์ไหม | ร้านเปิดวันอังคารไหม\n"
    "Mag ik hier parkeren? | Mag ik hier niet parkeren?\n"
    "हम जाते हैं | हम नहीं जाते हैं\n"
    "هل أدفع؟ | هل لا أدفع؟\n"
)
_SAME = """
Do cats like dogs and vice versa? | Do cats like dogs, and vice versa?
Why do trees grow more leaves in summer? | Why do trees grow more leaves during summer?
Do you know when the shop opens? | When does the shop open?
Difference between a web coder and a web artist | Difference between web artist and web coder
Are there some cheap flights? | Are there any cheap flights?
How do you boil an egg? | How do I boil an egg?
How many miles is 5 km? | What is 5 km in miles?
Will it be open? | Is it going to be open?
すみません、駅はどこですか？ | 駅はどこですか？
目前股票怎么样？ | 股票怎么样？
有时候头疼怎么办？ | 头疼怎么办？
ขอถามว่าร้านเปิดวันจันทร์ไหม | ร้านเปิดวันจันทร์ไหม
How big is the USA? | How big is the US?
Who is the president of the US? | Who is the president of the United States?
When did WW2 end? | When did world war 2 end?
Is it correct or not? | Is it correct?
What is the difference between PHP and Java? | What is the difference between Java and PHP?
What is the difference between PHP and Java? | What is the difference between PHP or Java?
Is VoIP legal in India? | VoIP is legal in India?
Why Delhi is a union territory? | Why is Delhi a union territory?
How should I learn French? | How can I learn French?
How do I know if he likes me? | How do I know he likes me?
Could you tell me how to boil an egg? | How do I boil an egg?
Will you tell me who did it? | Who did it?
May I cancel my order? | Can I cancel my order?
Is it still open in May 2024? | Is it still open in may 2024?
怎么删除账号？ | 怎么移除账号？
在哪里购买车票？ | 在哪里买车票？
这个会议重要吗？ | 这次会议重要吗？
How do I quit smoking for good? | How do I stop smoking for good?
How do I remove a column from a table? | How do I delete a column from a table?
When did WWII end in Europe? | When did World War II end in Europe?
How many people live in the USA today? | How many people live in the United States today?
How many people live in the usa today? | How many people live in the united states today?
What does the UN do all day? | What does the United Nations do all day?
Who runs NASA these days? | Who runs the National Aeronautics and Space Administration these days?
What is the capital city of Norway? | What is the Norwegian capital city?
What colour is the sky at dusk? | What color is the sky at dusk?
What is CO2? | what is CO2
Does GPT-4 support images? | Can GPT-4 support images?
What is the difference between TCP and UDP? | What's the difference between UDP and TCP?
红烧肉怎么做？ | 怎么做红烧肉？
苹果多少钱一斤？ | 一斤苹果多少钱？
Is it bad to skip breakfast? | Is skipping breakfast bad?
What is 3+4? | What's 3 + 4?
हिंदी में दिन का अर्थ क्या है? | दिन का हिंदी में अर्थ क्या है?
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
